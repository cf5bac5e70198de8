"""Vectors inside Numba, and the words of the rows over them.

Numba has scalars and arrays, and leaves it to LLVM's guess whether a loop becomes vector code; its exp and tanh never
do. So kernels here are written with vectors: ``load(array, at, lanes)`` is one, arithmetic and comparisons are single
instructions on it, and the words are series of such. Without compilation (``NUMBA_DISABLE_JIT=1``) a vector is a small
NumPy array, and the same text runs as it stands.

What is in this file is known to Numba from the first import on; only `fastbp.backends` imports it, on first use.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit
from numba.core import cgutils, config, types
from numba.core.dispatcher import Dispatcher
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, overload, register_jitable, register_model

from fastbp.backends.numba import pipeline
from fastbp.rows import VOCABULARY, WORDS, n_arguments, over_arrays

# Of all that is compiled: plain C arithmetic, and no counting of references, as nothing is allocated. Called from
# outside it has another pipeline, `pipeline.Whole`.
OPTIONS = {
    "fastmath": {"contract"}, "error_model": "numpy", "boundscheck": False, "_nrt": False, "no_cfunc_wrapper": True,
    "pipeline_class": pipeline.Part,
}  # fmt: skip
_FLAGS = ("contract",)  # multiplications and additions may be fused; NaN, infinities and -0 stay what they are
_FEATURES = binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16


class Vector(types.Type):
    """`lanes` numbers of one type."""

    def __init__(self, element: types.Number, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"Vector({element}, {lanes})")


class Mask(types.Type):
    """What a comparison of vectors gives."""

    def __init__(self, element: types.Number, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"Mask({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, ir.VectorType(manager.lookup(of.element).get_value_type(), of.lanes))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, ir.VectorType(ir.IntType(1), of.lanes))


# ------------------------------------------------------------------ how Numba learns a function


def _known(function: Callable, *kinds: type, gives: Callable) -> Callable:
    """Teach Numba a function of arguments of these kinds.

    `gives` takes the types of the arguments and says the type of the result, None where it has none. What is decorated
    takes a builder, the types (result, arguments) and the values, and gives the value.
    """

    class Template(AbstractTemplate):
        key = function
        prefer_literal = True

        def generic(self, args, kws):
            fits = not kws and len(args) == len(kinds) and all(map(isinstance, args, kinds))
            result = gives(*args) if fits else None
            return None if result is None else signature(result, *args)

    infer_global(function, types.Function(Template))

    def register(emit: Callable) -> Callable:
        @lower_builtin(function, *kinds)
        def lower(context, builder, sig, args):
            value = emit(context, builder, (sig.return_type, *sig.args), args)
            return context.get_dummy_value() if value is None else value

        return emit

    return register


def _splat(context, builder, value, given, wanted):
    """A value as a vector: a number is put in every lane."""
    if isinstance(given, Vector):
        return value
    scalar = context.cast(builder, value, types.unliteral(given), wanted.element)
    vector_type = context.get_value_type(wanted)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), wanted.lanes), [0] * wanted.lanes)
    return builder.shuffle_vector(one, one, order)


def _broadcast(*args: types.Type) -> Vector | None:
    """The one type of the vectors among some arguments."""
    vectors = {arg for arg in args if isinstance(arg, Vector)}
    return vectors.pop() if len(vectors) == 1 else None


def _of_lanes(element: types.Number, lanes: types.Integer) -> Vector | None:
    """A vector of so many lanes, where that is a number in the text."""
    return Vector(element, lanes.literal_value) if isinstance(lanes, types.Literal) else None


def _mask(*args: types.Type) -> Mask | None:
    vector = _broadcast(*args)
    return vector and Mask(vector.element, vector.lanes)


def _pairs(function: Callable, gives: Callable, emit: Callable) -> None:
    """A function of two, of which one may be a number."""
    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):

        @_known(function, *kinds, gives=gives)
        def lower(context, builder, sig, args):
            wanted = _broadcast(*sig[1:])
            both = (_splat(context, builder, value, given, wanted) for value, given in zip(args, sig[1:]))
            return emit(builder, wanted, *both)


def _is_float(vector: Vector) -> bool:
    return isinstance(vector.element, types.Float)


def _arithmetic(of_floats: str, of_integers: str) -> Callable:
    def emit(builder, vector, a, b):
        if _is_float(vector):
            return getattr(builder, of_floats)(a, b, flags=_FLAGS)
        return getattr(builder, of_integers)(a, b)

    return emit


for _operator, *_names in (
    (operator.add, "fadd", "add"), (operator.sub, "fsub", "sub"), (operator.mul, "fmul", "mul"),
    (operator.truediv, "fdiv", "udiv"), (operator.lshift, "", "shl"), (operator.rshift, "", "lshr"),
    (operator.and_, "", "and_"), (operator.or_, "", "or_"),
):  # fmt: skip
    _pairs(_operator, _broadcast, _arithmetic(*_names))
for _operator, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
):  # fmt: skip
    _pairs(_operator, _mask, lambda builder, vector, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b))
_pairs(operator.ne, _mask, lambda builder, vector, a, b: builder.fcmp_unordered("!=", a, b))


@_known(operator.neg, Vector, gives=_broadcast)
def _(context, builder, sig, args):
    return builder.fneg(args[0])


# ------------------------------------------------------------------ memory


def load(array: np.ndarray, at: int, lanes: int = 0) -> np.ndarray:
    """`lanes` elements from index `at` on: as many as the widest vector has, unless told."""
    return array[at : at + (lanes or VECTOR_BYTES // array.itemsize)].copy()


def store(array: np.ndarray, at: int, vector: np.ndarray) -> None:
    array[at : at + len(vector)] = vector


def _pointer(context, builder, array_type, array, at):
    if isinstance(array_type, types.Array):
        array = context.make_array(array_type)(context, builder, array).data
    return builder.gep(array, [at])


@_known(load, types.Array, types.Integer, gives=lambda a, at: Vector(a.dtype, VECTOR_BYTES * 8 // a.dtype.bitwidth))
@_known(load, types.Array, types.Integer, types.Integer, gives=lambda a, at, n: _of_lanes(a.dtype, n))
@_known(load, types.CPointer, types.Integer, types.Integer, gives=lambda a, at, n: _of_lanes(a.dtype, n))
def _(context, builder, sig, args):
    vector = context.get_value_type(sig[0])
    at = builder.bitcast(_pointer(context, builder, sig[1], *args[:2]), vector.as_pointer())
    return builder.load(at, align=sig[1].dtype.bitwidth // 8)


@_known(store, types.Array, types.Integer, Vector, gives=lambda a, at, v: types.none)
@_known(store, types.CPointer, types.Integer, Vector, gives=lambda a, at, v: types.none)
def _(context, builder, sig, args):
    at = builder.bitcast(_pointer(context, builder, sig[1], *args[:2]), args[2].type.as_pointer())
    builder.store(args[2], at, align=sig[1].dtype.bitwidth // 8)


def memory(pointer: object, n: int) -> np.ndarray:
    """What C code calls with: a pointer to n elements, which `load` and `store` take as it is."""
    return carray(pointer, (n,))


@_known(memory, types.CPointer, types.Integer, gives=lambda p, n: p)
def _(context, builder, sig, args):
    return args[0]


def splat(number: float, lanes: int) -> np.ndarray:
    """A number in every lane."""
    return np.full(lanes, number, np.asarray(number).dtype)


@_known(splat, types.Float, types.Integer, gives=_of_lanes)
def _(context, builder, sig, args):
    return _splat(context, builder, args[0], sig[1], sig[0])


def like(value: float | np.ndarray, vector: np.ndarray) -> np.ndarray:
    """`value`, a vector already or a number, as a vector like the other."""
    return np.broadcast_to(value, vector.shape).astype(vector.dtype)


for _kind in (Vector, types.Number):

    @_known(like, _kind, Vector, gives=lambda x, v: v)
    def _(context, builder, sig, args):
        return _splat(context, builder, args[0], sig[1], sig[0])


# ------------------------------------------------------------------ across lanes


def evens(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Every other lane of a and then of b."""
    return np.concatenate([a, b])[::2]


def odds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([a, b])[1::2]


def _every_other(builder, a, b, lanes, first):
    order = [first + 2 * k for k in range(lanes)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), lanes), order))


for _function, _first in ((evens, 0), (odds, 1)):

    @_known(_function, Vector, Vector, gives=_broadcast)
    def _(context, builder, sig, args, first=_first):
        return _every_other(builder, *args, sig[0].lanes, first)


def transpose(source: np.ndarray, at: int, ld: int, target: np.ndarray, to: int, ld_to: int, lanes: int = 0) -> None:
    """A square block of `lanes` rows, its rows `ld` elements apart, into another one as columns."""
    lanes = lanes or VECTOR_BYTES // source.itemsize
    for k in range(lanes):
        target[to + k : to + k + (lanes - 1) * ld_to + 1 : ld_to] = source[at + k * ld : at + k * ld + lanes]


@_known(transpose, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer,
        gives=lambda *kinds: types.none)  # fmt: skip
@_known(transpose, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer, types.Integer,
        gives=lambda *kinds: types.none if isinstance(kinds[-1], types.Literal) else None)  # fmt: skip
def _(context, builder, sig, args):
    int64, lanes = ir.IntType(64), VECTOR_BYTES * 8 // sig[1].dtype.bitwidth
    if len(sig) > 7:
        lanes = sig[7].literal_value
    source, at, ld, target, to, ld_to = args[:6]
    vector = ir.VectorType(context.get_value_type(sig[1].dtype), lanes)

    def row(array_type, array, first, apart, k):
        index = builder.add(first, builder.mul(apart, ir.Constant(int64, k)))
        return builder.bitcast(_pointer(context, builder, array_type, array, index), vector.as_pointer())

    align = sig[1].dtype.bitwidth // 8
    rows = [builder.load(row(sig[1], source, at, ld, k), align=align) for k in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = list(zip(rows[::2], rows[1::2]))
        rows = [_every_other(builder, *pair, lanes, first) for first in (0, 1) for pair in pairs]
    for k, value in enumerate(rows):
        builder.store(value, row(sig[4], target, to, ld_to, k), align=align)


def weigh(vector: np.ndarray, array: np.ndarray, at: int, ld: int, n: int) -> np.ndarray:
    """Lane k is the sum over the lanes of `vector` times the k-th of n vectors, `ld` elements apart; others are 0."""
    sums = np.zeros_like(vector)
    for k in range(n):
        sums[k] = total(vector * load(array, at + k * ld, len(vector)))
    return sums


@_known(weigh, Vector, types.Array, types.Integer, types.Integer, types.Integer,
        gives=lambda v, *kinds: v if isinstance(kinds[-1], types.Literal) else None)  # fmt: skip
def _(context, builder, sig, args):
    weight, array, at, ld, _ = args
    n, lanes = sig[5].literal_value, sig[0].lanes
    vectors = []
    for k in range(n):
        index = builder.add(at, builder.mul(ld, ir.Constant(ir.IntType(64), k)))
        place = builder.bitcast(_pointer(context, builder, sig[2], array, index), weight.type.as_pointer())
        value = builder.load(place, align=sig[2].dtype.bitwidth // 8)
        vectors.append(builder.fmul(weight, value, flags=_FLAGS))
    nothing = ir.Constant(weight.type, [0.0] * lanes)
    while lanes > 1:
        vectors += [nothing] * (len(vectors) % 2)
        lanes //= 2
        halves = [vectors[::2], vectors[1::2]] if len(vectors) > 1 else [vectors, [nothing]]
        vectors = [
            builder.fadd(*(_every_other(builder, a, b, sig[0].lanes, first) for first in (0, 1)), flags=_FLAGS)
            for a, b in zip(*halves)
        ]
    return vectors[0]


def total(vector: np.ndarray) -> float:
    """The sum over the lanes, of neighbours first, as the C++ kernels add them up."""
    while len(vector) > 1:
        vector = vector[::2] + vector[1::2]
    return vector[0]


@_known(total, Vector, gives=lambda v: v.element)
def _(context, builder, sig, args):
    vector, lanes = args[0], sig[1].lanes
    while lanes > 1:
        lanes //= 2
        both = (_every_other(builder, vector, vector, lanes, first) for first in (0, 1))
        vector = builder.fadd(*both, flags=_FLAGS)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def below(n: int, vector: np.ndarray) -> np.ndarray:
    """A mask of the lanes before the n-th."""
    return np.arange(len(vector)) < n


@_known(below, types.Integer, Vector, gives=lambda n, v: Mask(v.element, v.lanes))
def _(context, builder, sig, args):
    wide = Vector(types.int64, sig[2].lanes)
    lane = ir.Constant(context.get_value_type(wide), list(range(wide.lanes)))
    return builder.icmp_signed("<", lane, _splat(context, builder, args[0], sig[1], wide))


def lane_index(vector: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... in a vector like the other."""
    return np.arange(len(vector), dtype=vector.dtype)


@_known(lane_index, Vector, gives=lambda v: v)
def _(context, builder, sig, args):
    return ir.Constant(args[0].type, [float(k) for k in range(sig[0].lanes)])


def wide(vector: np.ndarray) -> np.ndarray:
    """In double precision."""
    return vector.astype(np.float64)


@_known(wide, Vector, gives=lambda v: Vector(types.float64, v.lanes))
def _(context, builder, sig, args):
    return args[0] if sig[0] == sig[1] else builder.fpext(args[0], context.get_value_type(sig[0]))


def narrow(vector: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In the precision of the other."""
    return vector.astype(other.dtype)


@_known(narrow, Vector, Vector, gives=lambda v, other: Vector(other.element, v.lanes))
def _(context, builder, sig, args):
    return args[0] if sig[0] == sig[1] else builder.fptrunc(args[0], context.get_value_type(sig[0]))


def lanes_of(vector: np.ndarray) -> int:
    return len(vector)


@_known(lanes_of, Vector, gives=lambda v: types.intp)
def _(context, builder, sig, args):
    return ir.Constant(ir.IntType(64), sig[1].lanes)


def one_lane(vector: np.ndarray, k: int) -> float:
    return vector[k]


@_known(one_lane, Vector, types.Integer, gives=lambda v, k: v.element)
def _(context, builder, sig, args):
    return builder.extract_element(*args)


def with_lane(vector: np.ndarray, k: int, number: float) -> np.ndarray:
    """The vector with another number in lane k."""
    vector = vector.copy()
    vector[k] = number
    return vector


@_known(with_lane, Vector, types.Integer, types.Number, gives=lambda v, k, x: v)
def _(context, builder, sig, args):
    number = context.cast(builder, args[2], types.unliteral(sig[3]), sig[0].element)
    return builder.insert_element(args[0], number, args[1])


def _raises(function: Callable, seen: set) -> bool:
    """Whether a `raise` or an `assert` stands in a function, or in what it calls by name."""
    if isinstance(function, Dispatcher):
        function = function.py_func
    if not inspect.isfunction(function) or function in seen:
        return False
    seen.add(function)
    if any(step.opname == "RAISE_VARARGS" for step in dis.get_instructions(function)):
        return True
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a name that has no value yet
        return True
    return any(_raises(called, seen) for called in (*names.nonlocals.values(), *names.globals.values()))


def over_lanes(function: Callable[..., float]) -> Callable:
    """A user's function of one or two numbers, as one of vectors."""
    own = njit(error_model="numpy")(function)

    @njit(error_model="numpy")
    def one(*numbers):
        return 1.0 * own(*numbers)  # it may be a bool

    @njit(error_model="numpy")
    def one_that_raises(*numbers):
        try:
            return 1.0 * own(*numbers)
        except Exception:  # noqa: BLE001 - NaN, as `fastbp.rows.over_arrays` has it
            return np.nan

    if _raises(function, set()):  # only then: LLVM makes no vectors of what may raise
        one = one_that_raises

    def each(x):
        y = x
        for k in range(lanes_of(x)):
            y = with_lane(y, k, one(one_lane(x, k)))
        return y

    def each_pair(x, t):
        y = x
        for k in range(lanes_of(x)):
            y = with_lane(y, k, one(one_lane(x, k), one_lane(t, k)))
        return y

    if config.DISABLE_JIT:
        return over_arrays(function)
    return register_jitable(**OPTIONS)(each if n_arguments(function) == 1 else each_pair)


# ------------------------------------------------------------------ products of columns

# A unit of several samples is a vector, and sizes are numbers in the text. These go to LLVM as they are: Numba takes
# longer over the lines of such a loop than LLVM over all that becomes of it.


def sums(memory: np.ndarray, at: int, apart: int, n: int, params: np.ndarray, weight: int, by_in: int, by_out: int,
         start: int, to: int, n_out: int, lanes: int) -> None:  # fmt: skip
    """Vector j from `to` on = params[start + j], 0 if start is -1, + the sum over i of u[i] * weight[i, j], where the n
    vectors u[i] lie `apart` elements from one another from `at` on."""
    for j in range(n_out):
        v = np.full(lanes, params[start + j] if start >= 0 else 0, memory.dtype)
        for i in range(n):
            v = v + load(memory, at + i * apart, lanes) * params[weight + i * by_in + j * by_out]
        store(memory, to + j * lanes, v)


def outer(memory: np.ndarray, turned: int, ld: int, x: int, ldx: int, n: int, grads: int, weight: int, ldw: int,
          adds: int, lanes: int) -> None:  # fmt: skip
    """Row i of a weight's gradient = the sum over samples of turned[sample] * x[i, sample], added to what is there if
    `adds`; from `turned` on each sample has `ld` deltas side by side."""
    for i in range(n):
        for j in range(0, ld, lanes):
            g = np.zeros(lanes, memory.dtype)
            for sample in range(lanes):
                g = g + load(memory, turned + sample * ld + j, lanes) * memory[x + i * ldx + sample]
            to = grads + weight + i * ldw + j
            store(memory, to, g + load(memory, to, lanes) if adds else g)


def rest(params: np.ndarray, first: int, n: int, apart: int, cols: int, lanes: int) -> np.ndarray:
    """The sum of x - x over n rows, 0 where all are finite, in one vector."""
    rows = params[first + np.arange(n)[:, None] * apart + np.arange(cols)]
    return np.full(lanes, (rows - rows).sum(), params.dtype)


class _Code:
    """Writes loops over vectors of an array's elements. An index is a value of LLVM's, a number is one of Python's."""

    def __init__(self, context, builder, array: types.Array, lanes: int) -> None:
        self.context, self.builder, self.array = context, builder, array
        self.of, self.align = Vector(array.dtype, lanes), array.dtype.bitwidth // 8
        self.vector = context.get_value_type(self.of)
        self.nothing = ir.Constant(self.vector, [0.0] * lanes)

    @contextlib.contextmanager
    def loop(self, n: int):
        """The index of n rounds; one round is no loop."""
        int64 = ir.IntType(64)
        if n == 1:
            yield ir.Constant(int64, 0)
        else:
            with cgutils.for_range(self.builder, ir.Constant(int64, n)) as loop:
                yield loop.index

    def blocks(self, n: int, at_once: int):
        """The index of the first of some of 0 .. n - 1, and how many are at hand: at_once, and then the rest."""
        for begin, rounds, some in ((0, n // at_once, at_once), (n // at_once * at_once, 1, n % at_once)):
            if rounds and some:
                with self.loop(rounds) as k:
                    yield self.index(begin, k, some), some

    def index(self, first, *pairs):
        """first + the sum of index * number over pairs of these."""
        int64 = ir.IntType(64)
        at = ir.Constant(int64, first) if isinstance(first, int) else first
        for index, number in zip(pairs[::2], pairs[1::2]):
            at = self.builder.add(at, self.builder.mul(index, ir.Constant(int64, number)))
        return at

    def element(self, array, at):
        number = self.builder.load(self._pointer(array, at))
        return _splat(self.context, self.builder, number, self.array.dtype, self.of)

    def load(self, array, at):
        place = self.builder.bitcast(self._pointer(array, at), self.vector.as_pointer())
        return self.builder.load(place, align=self.align)

    def store(self, array, at, value) -> None:
        place = self.builder.bitcast(self._pointer(array, at), self.vector.as_pointer())
        self.builder.store(value, place, align=self.align)

    def _pointer(self, array, at):
        return _pointer(self.context, self.builder, self.array, array, at)

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=_FLAGS)

    def add_product(self, to, a, b) -> None:
        """To a sum, which LLVM will keep in a register."""
        self.builder.store(self.add(self.builder.load(to), self.builder.fmul(a, b, flags=_FLAGS)), to)

    def sums(self, starts: Iterable) -> list:
        return [cgutils.alloca_once_value(self.builder, start) for start in starts]


def _numbers(kinds: tuple[types.Type, ...]) -> list[int | None]:
    """Of arguments, as far as they are numbers in the text."""
    return [kind.literal_value if isinstance(kind, types.Literal) else None for kind in kinds]


def _are_numbers(*places: int) -> Callable:
    """Says of arguments that all are but those at these places, and that the function gives nothing."""

    def gives(*kinds):
        others = (number for k, number in enumerate(_numbers(kinds)) if k not in places)
        return None if None in others else types.none

    return gives


@_known(sums, types.Array, *[types.Integer] * 3, types.Array, *[types.Integer] * 7, gives=_are_numbers(0, 1, 4))
def _(context, builder, sig, args):
    memory, at, params = args[0], args[1], args[4]
    _, _, apart, n, _, weight, by_in, by_out, start, to, n_out, lanes = _numbers(sig[1:])
    code = _Code(context, builder, sig[1], lanes)
    for j, some in code.blocks(n_out, 8):
        bias = lambda r, j=j: code.element(params, code.index(start + r, j, 1))  # noqa: E731
        v = code.sums(code.nothing if start < 0 else bias(r) for r in range(some))
        with code.loop(n) as i:
            unit = code.load(memory, code.index(at, i, apart))
            for r in range(some):
                code.add_product(v[r], unit, code.element(params, code.index(weight + r * by_out, i, by_in, j, by_out)))
        for r in range(some):
            code.store(memory, code.index(to + r * lanes, j, lanes), builder.load(v[r]))


@_known(outer, types.Array, *[types.Integer] * 10, gives=_are_numbers(0, 3))
def _(context, builder, sig, args):
    memory, x = args[0], args[3]
    _, turned, ld, _, ldx, n, grads, weight, ldw, adds, lanes = _numbers(sig[1:])
    code = _Code(context, builder, sig[1], lanes)
    for i, some in code.blocks(n, 4):
        with code.loop(ld // lanes) as j:
            g = code.sums([code.nothing] * some)
            with code.loop(lanes) as sample:
                delta = code.load(memory, code.index(turned, sample, ld, j, lanes))
                for r in range(some):
                    unit = code.element(memory, builder.add(x, code.index(r * ldx, i, ldx, sample, 1)))
                    code.add_product(g[r], delta, unit)
            for r in range(some):
                to = code.index(grads + weight + r * ldw, i, ldw, j, lanes)
                old = [code.load(memory, to)] if adds else []
                code.store(memory, to, functools.reduce(code.add, old, builder.load(g[r])))


@_known(rest, types.Array, *[types.Integer] * 5,
        gives=lambda params, *numbers: _are_numbers()(*numbers) and Vector(params.dtype, numbers[-1].literal_value))
def _(context, builder, sig, args):
    _, first, n, apart, cols, lanes = _numbers(sig[1:])
    code = _Code(context, builder, sig[1], lanes)
    (sum_,) = code.sums([code.nothing])
    with code.loop(n) as row:
        for begin in range(0, cols, lanes):
            x = code.load(args[0], code.index(first + begin, row, apart))
            real = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [begin + lane < cols for lane in range(lanes)])
            x = builder.select(real, x, code.nothing)
            builder.store(code.add(builder.load(sum_), builder.fsub(x, x)), sum_)
    return builder.load(sum_)


# ------------------------------------------------------------------ words without a series


def _word(name: str) -> Callable:
    """The word over NumPy arrays, as a function of ours: of NumPy's own Numba has another opinion."""
    ufunc = WORDS[name]

    def word(*args):
        return ufunc(*args)

    word.__name__ = name
    return word


EXP, EXPM1, LOG, LOG1P, TANH, SQRT, ABS, MAX, MIN, WHERE = map(_word, VOCABULARY)


def _select_nan(builder, a, b, sign):
    """x86 max and min give their second operand where either is NaN: the other NaN is put right."""
    chosen = builder.select(builder.fcmp_ordered(sign, b, a), b, a)
    return builder.select(builder.fcmp_unordered("uno", b, b), b, chosen)


_pairs(MAX, _broadcast, lambda builder, vector, a, b: _select_nan(builder, a, b, ">"))
_pairs(MIN, _broadcast, lambda builder, vector, a, b: _select_nan(builder, a, b, "<"))

for _then in (Vector, types.Number):
    for _else in (Vector, types.Number):

        @_known(WHERE, Mask, _then, _else, gives=lambda m, a, b: _broadcast(a, b) or Vector(m.element, m.lanes))
        def _(context, builder, sig, args):
            both = (_splat(context, builder, value, given, sig[0]) for value, given in zip(args[1:], sig[2:]))
            return builder.select(args[0], *both)


for _function, _intrinsic in ((SQRT, "llvm.sqrt"), (ABS, "llvm.fabs")):

    @_known(_function, Vector, gives=_broadcast)
    def _(context, builder, sig, args, name=_intrinsic):
        vector = args[0].type
        name = f"{name}.v{vector.count}{vector.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector]), name)
        return builder.call(function, args)


# ------------------------------------------------------------------ words with a series, as in src/kernels/math.hpp


def _bits(vector: np.ndarray) -> np.ndarray:
    """The bits of floating-point numbers, as unsigned integers."""


def _from_bits(vector: np.ndarray) -> np.ndarray:
    """And back."""


_UNSIGNED = {types.float32: types.uint32, types.float64: types.uint64}
_FLOAT = {unsigned: float_ for float_, unsigned in _UNSIGNED.items()}
for _function, _other in ((_bits, _UNSIGNED), (_from_bits, _FLOAT)):

    @_known(_function, Vector, gives=lambda v, other=_other: Vector(other[v.element], v.lanes))
    def _(context, builder, sig, args):
        return builder.bitcast(args[0], context.get_value_type(sig[0]))


def _polynomial(*coefficients: float) -> Callable:
    """c[0] + c[1] x + ..."""

    def polynomial(x):
        """Known to Numba alone."""

    @_known(polynomial, Vector, gives=_broadcast)
    def _(context, builder, sig, args):
        vector = context.get_value_type(sig[0])
        y, *rest = (ir.Constant(vector, [c] * sig[0].lanes) for c in _rounded(coefficients[::-1], sig[0].element))
        for c in rest:
            y = builder.fadd(builder.fmul(y, args[0], flags=_FLAGS), c, flags=_FLAGS)
        return y

    return polynomial


def _rounded(numbers, element) -> list[float]:
    return [float(np.dtype(element.name).type(number)) for number in numbers]


def _series(dtype: type) -> dict[str, Callable]:
    """The five words for one type. See math.hpp for the reasons, the coefficients' origin and the errors."""
    single = dtype is np.float32
    fraction_bits, bias = (23, 127) if single else (52, 1023)
    two_fraction_bits, least_normal = (2.0**23, 2.0**-126) if single else (2.0**52, 2.0**-1022)
    ln2_hi, ln2_lo = (0.693145751953125, 1.42860677e-6) if single else (
        6.93147180369123816490e-01, 1.90821492927058770002e-10)  # fmt: skip
    exp_is_0, exp_is_inf, expm1_is_minus_1, tanh_of_half_is_1 = (
        (-104.0, 89.0, -18.0, 20.0) if single else (-746.0, 710.0, -38.0, 42.0)
    )
    if single:
        expm1_tail = _polynomial(0.49999997, 0.166665465, 0.0416674353, 0.00836625881, 0.0013870676)
        log1p_tail = _polynomial(-0.499999911, 0.333339512, -0.250017941, 0.1996205, -0.165697664, 0.149176583,
                                 -0.143119782, 0.0874041021)  # fmt: skip
    else:
        expm1_tail = _polynomial(
            0.50000000000000056, 0.16666666666666644, 0.041666666666575827, 0.0083333333333622736,
            0.0013888888931553756, 0.00019841269767615572, 2.4801505416097349e-5, 2.7557370648717747e-6,
            2.7625962945672857e-7, 2.506393464827182e-8)  # fmt: skip
        log1p_tail = _polynomial(
            0.66666666666667351, 0.39999999999409852, 0.28571428743483213, 0.22222198457519635, 0.181835705386208,
            0.15313885946780492, 0.14797656301431319)  # fmt: skip
    one, root_half, top = (
        int(dtype(x).view(np.uint32 if single else np.uint64)) for x in (1.0, math.sqrt(0.5), -0.0)
    )
    two, two_fraction = one + (1 << fraction_bits), one + (fraction_bits << fraction_bits)
    shift = 1.5 * two_fraction_bits
    log2_e, ln2 = 1.4426950408889634, 0.69314718055994531
    inf, nan = math.inf, math.nan

    def exp(x):
        x = MIN(MAX(x, exp_is_0), exp_is_inf)
        shifted = x * log2_e + (shift + 2 * bias)
        n = shifted - (shift + 2 * bias)
        r = x - n * ln2_hi - n * ln2_lo
        y = (expm1_tail(r) * r + 1.0) * r + 1.0
        floor_half = (_bits(shifted) >> 1) << fraction_bits
        ceil_half = (_bits(shifted) << fraction_bits) - floor_half
        return y * _from_bits(floor_half) * _from_bits(ceil_half)

    def expm1(x):
        x = MIN(MAX(x, expm1_is_minus_1), exp_is_inf)
        shifted = x * log2_e + (shift + (bias - 1))
        n = shifted - (shift + (bias - 1))
        r = x - n * ln2_hi - n * ln2_lo
        y = (expm1_tail(r) * r + 1.0) * r
        half_scale = _from_bits(_bits(shifted) << fraction_bits)
        return WHERE(n == 0.0, y, (y * half_scale + (half_scale - 0.5)) * 2.0)

    def tanh(x):
        twice = MIN(ABS(x) + ABS(x), tanh_of_half_is_1)
        shifted = twice * log2_e + (shift + bias)
        r = twice - (shifted - (shift + bias)) * ln2
        y = r + r * r * expm1_tail(r)
        scale = _from_bits(_bits(shifted) << fraction_bits)
        e = y * scale + (scale - 1.0)
        return _from_bits(_bits(e / (e + 2.0)) | (_bits(x) & top))

    def log(x):
        subnormal = x < least_normal
        u = WHERE(subnormal, x * two_fraction_bits, x)
        biased = (_bits(u) + (one - root_half)) >> fraction_bits
        e = _from_bits(biased | two_fraction) - two_fraction_bits
        e = e - WHERE(subnormal, like(float(bias + fraction_bits), x), like(float(bias), x))
        f = _from_bits(_bits(u) - ((biased << fraction_bits) - one)) - 1.0
        return finish(x, 0.0, e, f)

    def log1p(x):
        biased = (_bits(x + 1.0) + (one - root_half)) >> fraction_bits
        field = (biased << fraction_bits) - one
        e = _from_bits(biased | two_fraction) - (two_fraction_bits + bias)
        twice_scale = _from_bits(two - field)
        f = _from_bits(_bits(x) - field) + (twice_scale * 0.5 - 1.0)
        return WHERE(x == 0.0, x, finish(x, -1.0, e, f))

    if single:

        def log1p_minus_f(f):
            return f * f * log1p_tail(f)
    else:

        def log1p_minus_f(f):
            s = f / (f + 2.0)
            half_f2 = f * f * 0.5
            return s * (half_f2 + s * s * log1p_tail(s * s)) - half_f2

    minus_f = register_jitable(**OPTIONS)(log1p_minus_f)

    @register_jitable(**OPTIONS)
    def finish(x, pole, e, f):
        y = e * ln2_hi + (f + (minus_f(f) + e * ln2_lo))
        outside = WHERE(x < pole, like(nan, x), like(-inf, x))
        return WHERE(x < inf, WHERE(x > pole, y, outside), x)

    return {"EXP": exp, "EXPM1": expm1, "LOG": log, "LOG1P": log1p, "TANH": tanh}


_SERIES = {types.float32: _series(np.float32), types.float64: _series(np.float64)}
_OF_NUMBERS = {"EXP": math.exp, "EXPM1": math.expm1, "LOG": math.log, "LOG1P": math.log1p, "TANH": math.tanh}


def _choose(word: str, x: types.Type) -> Callable | None:
    if isinstance(x, Vector):
        return _SERIES[x.element][word]
    if isinstance(x, types.Float):  # of constants alone
        of_number = _OF_NUMBERS[word]
        return lambda x: of_number(x)
    return None


overload(EXP, jit_options=OPTIONS | {"forceinline": True})(lambda x: _choose("EXP", x))
overload(EXPM1, jit_options=OPTIONS | {"forceinline": True})(lambda x: _choose("EXPM1", x))
overload(LOG, jit_options=OPTIONS | {"forceinline": True})(lambda x: _choose("LOG", x))
overload(LOG1P, jit_options=OPTIONS | {"forceinline": True})(lambda x: _choose("LOG1P", x))
overload(TANH, jit_options=OPTIONS | {"forceinline": True})(lambda x: _choose("TANH", x))
