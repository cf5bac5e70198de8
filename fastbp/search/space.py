"""What is tried: a space of hyper-parameters, candidates drawn from it, and the network and optimizer of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from inspect import signature
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbp import checks, optimizers, spec
from fastbp.errors import unknown_name
from fastbp.many.fit import fit_many
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from fastbp.typing import OptimizerLike

Candidate: TypeAlias = dict[str, Any]
Method: TypeAlias = Literal["grid", "random", "sobol"]

OF_NETWORKS = tuple(signature(MLP).parameters)[1:]  # but `sizes`
OF_OPTIMIZERS = tuple(dict.fromkeys(
    field.name for kind in optimizers.BY_NAME.values() for field in fields(kind) if kind is not optimizers.LBFGS
))  # fmt: skip
OF_EACH = ("loss", "optimizer", "batch_size", "epochs", "steps", "early_stopping")  # arguments of fit_many
KEYS = ("hidden", "sizes", *OF_NETWORKS, *OF_EACH, *OF_OPTIMIZERS)
_GIVEN = ("nets", "X", "y", "by", "rows", "seed", "executor", "store")  # which sweep gives fit_many itself
OF_ALL = tuple(name for name in signature(fit_many).parameters if name not in (*_GIVEN, *OF_EACH))
OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    **optimizers.OTHER_ARGUMENTS,
    "hidden": ("hidden_layer_sizes", "hidden_sizes", "layers", "units"),
    "batch_size": ("batch", "bs"),
    "epochs": ("max_iter", "n_epochs", "num_epochs"),
    "dropout": ("dropout_rate",),
    "n_threads": ("n_jobs", "num_threads", "workers"),
    "seed": ("random_state", "rng", "random_seed"),
}
_HIDDEN = (100,)


def shown(candidate: Candidate) -> str:
    """A candidate in a message."""
    return ", ".join(f"{name}={value!r}" for name, value in candidate.items()) or "no key"


# ------------------------------------------------------------------ what may come


def _is_distribution(value: Any) -> bool:
    return callable(getattr(value, "ppf", None))


def checked(space: Any, fixed: Mapping[str, Any], method: str) -> dict[str, Any]:
    """`space` with its lists as lists; no key is unknown, and none is in `fixed` too."""
    if not isinstance(space, Mapping):
        raise TypeError(f"space must be a dict from a name to a list or a distribution, got {space!r}")
    found: dict[str, Any] = {}
    for name, value in space.items():
        if name in OF_ALL:
            raise ValueError(f"space[{name!r}]: {name} is the same for all networks; give it as {name}=")
        if name not in KEYS:
            raise unknown_name("key of space", name, KEYS, ValueError, OTHERS)
        if name in fixed:
            raise ValueError(f"{name} is both a key of space and an argument of sweep; give one of the two")
        if _is_distribution(value):
            if method == "grid":
                raise ValueError(f"space[{name!r}] is a distribution, and method='grid' takes lists alone; "
                                 "method='random' or 'sobol' draws from it, n= times")  # fmt: skip
            found[name] = value
            continue
        values = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
        if not isinstance(values, (list, range)):
            raise TypeError(f"space[{name!r}] must be a list of values, or a distribution with a method ppf, got "
                            f"{value!r}; one value for all is {name}= of sweep")  # fmt: skip
        if not len(values):
            raise ValueError(f"space[{name!r}] is empty; give one value at least")
        found[name] = list(values)
    if "hidden" in {*found, *fixed} and "sizes" in {*found, *fixed}:
        raise ValueError("hidden and sizes: sizes has the widths of all layers; give one of the two")
    return found


def check_fixed(fixed: Mapping[str, Any], own: Iterable[str]) -> None:
    """Make sure that what `sweep` hands on has a place to go to; `own` are the arguments that it has itself."""
    for name in fixed:
        if name in _GIVEN:
            raise ValueError(f"{name}: sweep says that itself, see cv= and seed=" if name != "nets" else
                             "nets: sweep makes the networks, from hidden= and the arguments of MLP")  # fmt: skip
        if name not in (*KEYS, *OF_ALL):
            raise unknown_name("argument of sweep", name, {*KEYS, *OF_ALL, *own}, ValueError, OTHERS)


# ------------------------------------------------------------------ which are tried


def candidates(space: dict[str, Any], n: Any, method: str, seed: int) -> list[Candidate]:
    """What is to be tried, in order.

    Parameters
    ----------
    space : dict of str to list or distribution
        As `checked` gives it.
    n : int or None
    method : {"grid", "random", "sobol"}
    seed : int
    """
    if method == "grid":
        if n is not None:
            raise ValueError("n: method='grid' tries all; method='random' or 'sobol' draws so many")
        return [dict(zip(space, values)) for values in product(*space.values())]
    if n is None:
        raise ValueError(f"n: method={method!r} needs the number of candidates, as in n=32")
    n = checks.integer("n", n, 1)
    if not space:
        raise ValueError(f"space is empty: there is nothing for method={method!r} to draw")
    if method == "random" and not any(map(_is_distribution, space.values())):
        return _without_repetition(space, n, seed)
    points = _sobol(len(space), n, seed) if method == "sobol" else np.random.default_rng(seed).random((n, len(space)))
    columns = [_drawn(name, value, points[:, j]) for j, (name, value) in enumerate(space.items())]
    return [dict(zip(space, values)) for values in zip(*columns)]


def _without_repetition(space: dict[str, Any], n: int, seed: int) -> list[Candidate]:
    """Different candidates of a grid."""
    shape = tuple(map(len, space.values()))
    size = math.prod(shape)
    if n > size:
        raise ValueError(f"n: space has {size} candidates, of which no {n} are different; method='grid' tries all")
    drawn = np.random.default_rng(seed).choice(size, n, replace=False).tolist()
    made = []
    for number in drawn:
        candidate: Candidate = {}
        for name in reversed(space):  # the last key runs fastest, as in the grid
            number, at = divmod(number, len(space[name]))
            candidate[name] = space[name][at]
        made.append({name: candidate[name] for name in space})
    return made


def _sobol(dimensions: int, n: int, seed: int) -> np.ndarray:
    """The first n points of a scrambled Sobol sequence, (n, dimensions), from 0, below 1."""
    try:
        from scipy.stats import qmc
    except ImportError as error:
        raise ImportError("method='sobol' needs SciPy: pip install 'fastbp[scipy]'") from error
    generator = np.random.default_rng(seed)
    try:
        engine = qmc.Sobol(dimensions, rng=generator)
    except TypeError:  # SciPy before 1.15
        engine = qmc.Sobol(dimensions, seed=generator)
    points: np.ndarray = engine.random_base2(math.ceil(math.log2(n)))[:n]
    return points


def _drawn(name: str, value: Any, points: np.ndarray) -> list[Any]:
    """Values at points from 0 to 1."""
    if not _is_distribution(value):
        return [value[int(point * len(value))] for point in points.tolist()]
    try:
        found = np.asarray(value.ppf(points), np.float64)
    except Exception as error:
        raise ValueError(f"space[{name!r}]: its ppf failed: {error}") from error
    if found.shape != points.shape or not np.isfinite(found).all():
        raise ValueError(f"space[{name!r}]: its ppf gives no finite number for each point from 0 to 1")
    numbers: list[Any] = found.tolist()
    return [int(number) for number in numbers] if hasattr(value, "pmf") else numbers


# ------------------------------------------------------------------ what a candidate is


def network(values: Candidate, n_features: int, n_outputs: int, seed: int) -> MLP:
    """The network of a candidate whose values, the fixed ones too, are these."""
    named = {name: values[name] for name in OF_NETWORKS if name in values}
    sizes = values.get("sizes")
    if sizes is None:
        hidden = values.get("hidden", _HIDDEN)
        widths = [hidden] if isinstance(hidden, (int, np.integer)) else hidden
        if isinstance(widths, str) or not isinstance(widths, (Sequence, np.ndarray)):
            raise TypeError(f"hidden must be a tuple of widths such as (64, 32), got {hidden!r}")
        for width in widths:
            checks.integer("hidden", width, 1)
        sizes = (n_features, *widths, n_outputs)
    return MLP(sizes, **{"seed": seed, **named})


def optimizer(values: Candidate) -> OptimizerLike:
    """That of a candidate: by name or as it is given, with the hyper-parameters that are named."""
    rule = values.get("optimizer", "adam")
    named = {name: values[name] for name in OF_OPTIMIZERS if name in values}
    if not named:
        return rule  # type: ignore[no-any-return]
    if isinstance(rule, str):
        rule = optimizers.BY_NAME[checks.choice("optimizer", rule, optimizers.BY_NAME, optimizers.OTHERS)]
    kind = rule if isinstance(rule, type) else type(rule)
    if not issubclass(kind, (optimizers.Rule, optimizers.LBFGS)):
        raise TypeError(f"optimizer must be a name or an optimizer, got {rule!r}")
    for name in named:
        if name not in {field.name for field in fields(kind)}:
            raise ValueError(f"{name}: {kind.__name__} has no such argument")
    return kind(**named) if isinstance(rule, type) else replace(rule, **named)


def outputs_of(y: np.ndarray, loss: Any) -> int:
    """How many outputs a network needs for these targets and this loss."""
    row = spec.loss_row(loss)
    if row.labels and y.ndim == 1 and y.dtype.kind in "biu":  # other labels are refused when they are looked at
        return int(y.max(initial=0)) + 1
    n_targets = y.shape[1] if y.ndim == 2 else 1
    return 2 * n_targets if row.grad_s else n_targets
