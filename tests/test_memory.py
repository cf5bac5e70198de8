"""Memory: nothing is allocated per step or leaked, no byte beside a buffer is touched, nothing stale is read."""

import gc
import sys

import numpy as np
import pytest
from conftest import every_case, frozen, need_extension
from test_process import python

import fastbp
from fastbp import SGD, backends, spec
from fastbp.backends import plan
from fastbp.spec import aligned_zeros

RULE = SGD(lr=0.01, momentum=0.9)
RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(40, 6)).astype(np.float32), RNG.normal(size=(40, 3)).astype(np.float32)


def build(backend, **options):
    return fastbp.MLP((6, 9, 3), **{"activation": "tanh", "seed": 1, "backend": backend} | options)


# ------------------------------------------------------------------ leaks

WORK = {  # what is done 2000 times
    "fit and predict": "net.fit(X, y, batch_size=7, epochs=1, optimizer=rule); net.predict(X)",
    "batches of every size": "net.fit(X[:k % 40 + 1], y[:k % 40 + 1], steps=1); net.predict(X[:k % 40 + 1])",
    "new networks": "new = build(k); new.fit(X, y, steps=1, optimizer=rule); new.predict(X)",
    "copies": "other = pickle.loads(pickle.dumps(net)); other.fit(X, y, steps=1); copy.copy(other).predict(X)",
    "the caller's gradient": "net.forward(X); net.backward(y); net.update(rule); net.forward(X);"
    " net.backward_update(y, rule); net.forward(X[:k % 40 + 1])",
    "train_step, evaluate, loss_and_grad": "net.train_step(X, y, optimizer=rule); net.evaluate(X, y, loss='mse');"
    " net.loss_and_grad(X, y, loss='mse')",
    "hidden and input_gradient": "net.hidden(X[:k % 40 + 1]); net.input_gradient(X[:k % 40 + 1], k % 3);"
    " net.input_gradient(X, labels); net.input_gradient(X.T.copy().T, -1); fails(net.input_gradient, X, k % 2 - 9)",
    "errors": "fails(net.fit, X, y[:-1], steps=1); fails(net.fit, bad, y, steps=9); fails(net.predict, X[:, 1:]);"
    " fails(net.train_step, bad, y); fails(net.fit, X, y, steps=3, loss='mes'); fails(build, -1);"
    " fails(build, 1, sizes=(2**33, 2**33)); fails(net.unflatten, X); fails(net.backward, y)",
    "cast and strided input": "net.fit(X[::-1].astype('>f8'), y.astype('f2')[:, ::-1], steps=2);"
    " net.predict(X.T.copy().T)",
}
LEAKS = [("cython", work) for work in WORK] + [("reference", "fit and predict"), ("reference", "errors")]


@pytest.mark.noasan
@pytest.mark.parametrize("backend, work", LEAKS)
def test_2000_rounds_of_work_do_not_grow_the_process(backend, work):
    """By at most 1 MB after a warm-up; a leak of one small array a round would be three.

    Of two halves the one that grows less tells: Python's table of interned strings takes 0.9 MB more once.
    """
    if backend == "cython":
        need_extension()
    script = """
        import copy, gc, pickle, sys
        import numpy as np, fastbp

        def build(seed, sizes=(6, 9, 3)):
            return fastbp.MLP(sizes, activation="tanh", seed=seed, backend=sys.argv[1])
        def fails(function, *arguments, **options):
            try:
                function(*arguments, **options)
            except Exception:
                return
            raise SystemExit("no error")
        def resident():
            gc.collect()
            return int(open("/proc/self/statm").read().split()[1]) * 4096

        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
        bad, labels = X.copy(), np.arange(40) % 3
        bad[5, 5] = np.nan
        net, rule = build(0), fastbp.SGD(lr=1e-3, momentum=0.9)
        work = compile(sys.argv[2], "work", "exec")
        for k in range(300):
            exec(work)
        grown = []
        for half in range(2):
            before = resident()
            for k in range(1000):
                exec(work)
            grown.append(resident() - before)
        print(2 * min(grown))
    """
    growth = int(python(script, backend, WORK[work], timeout=120))
    assert growth <= 1_000_000


def test_the_test_of_growth_sees_a_leak():
    work = "globals().setdefault('leak', []).append(np.ones(1000))"
    WORK["leak"] = work
    try:
        with pytest.raises(AssertionError, match="<= 1000000"):
            test_2000_rounds_of_work_do_not_grow_the_process("reference", "leak")
    finally:
        del WORK["leak"]


CALLS = {
    "fit": lambda net, x, y, w: net.fit(x, y, sample_weight=w, batch_size=7, epochs=2, optimizer=RULE),
    "fit with eval_every": lambda net, x, y, w: net.fit(x, y, sample_weight=w, steps=5, eval_every=2),
    "train_step": lambda net, x, y, w: net.train_step(x, y, sample_weight=w),
    "predict": lambda net, x, y, w: net.predict(x),
    "hidden": lambda net, x, y, w: net.hidden(x),
    "input_gradient": lambda net, x, y, w: net.input_gradient(x, 1),
    "evaluate": lambda net, x, y, w: net.evaluate(x, y, loss="mse", sample_weight=w),
    "loss_and_grad": lambda net, x, y, w: net.loss_and_grad(x, y, loss="mse", sample_weight=w),
    "forward, backward, update": lambda net, x, y, w: (net.forward(x), net.backward(y), net.update(RULE)),
    "backward_update": lambda net, x, y, w: (net.forward(x), net.backward_update(y, RULE)),
    "forward alone": lambda net, x, y, w: net.forward(x),
}
WEIGHT = RNG.uniform(1, 2, size=40)
SPOILED = {  # arrays for which a call fails early, late, or not at all
    "right": lambda: (X.copy(), Y.copy(), WEIGHT.copy()),
    "right, of another dtype": lambda: (X.astype(np.float64), Y.astype(">f4"), WEIGHT.astype(np.float32)),
    "strided": lambda: (np.asfortranarray(X), Y.copy()[::-1], WEIGHT.copy()[::-1]),
    "NaN in X": lambda: (np.where(X == X[5, 5], np.nan, X), Y.copy(), WEIGHT.copy()),
    "NaN in y": lambda: (X.copy(), np.where(Y == Y[5, 2], np.nan, Y), WEIGHT.copy()),
    "wrong y": lambda: (X.copy(), Y[:, :2].copy(), WEIGHT.copy()),
    "wrong X": lambda: (X[:, :2].copy(), Y.copy(), WEIGHT.copy()),
    "wrong weight": lambda: (X.copy(), Y.copy(), -WEIGHT),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_nothing_keeps_a_reference_to_the_callers_arrays_also_after_errors(backend, spoiled):
    failed = 0
    for name, call in CALLS.items():
        net, arrays = build(backend), SPOILED[spoiled]()
        before = [sys.getrefcount(array) for array in arrays]
        for _ in range(3):
            try:
                call(net, *arrays)
            except (ValueError, ArithmeticError, RuntimeError):
                failed += 1
        assert [sys.getrefcount(array) for array in arrays] == before, name
        assert all(array.base is None or sys.getrefcount(array.base) < 10 for array in arrays)
    assert (failed > 0) == spoiled.startswith(("NaN", "wrong"))


def test_a_network_without_owner_is_freed_with_its_buffers(backend):
    """No cycle holds it: it goes at once, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        net = build(backend)
        net.fit(X, Y, epochs=2, optimizer=RULE)
        net.predict(X)
        net.forward(X)
        params = net.params
        count = sys.getrefcount(params)
        del net
        assert sys.getrefcount(params) < count
        assert sys.getrefcount(params) <= 3  # this name and the argument; `base` is another array
    finally:
        gc.enable()


@pytest.mark.noasan
@pytest.mark.parametrize("made", ["MLP((2, 3, 1), seed=k)", "pickle.loads(stored)"])
def test_an_idle_network_takes_at_most_2_kB(made):
    """Of 2-3-1, all of it: parameters, training state, locks. Views of weights are made when they are asked for."""
    script = """
        import gc, pickle, sys, tracemalloc
        from fastbp import MLP

        stored = pickle.dumps(MLP((2, 3, 1), seed=0))
        make = eval("lambda k: " + sys.argv[1])
        kept = [make(k) for k in range(100)]
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        nets = [make(k) for k in range(5000)]
        gc.collect()
        print((tracemalloc.get_traced_memory()[0] - before) / len(nets))
        assert nets[7].weights is nets[7].weights and nets[7].weights[0].base is nets[7].params.base
    """
    assert 500 < float(python(script, made)) <= 2000


# ------------------------------------------------------------------ memory for copies


@pytest.mark.parametrize("way", [{}, {"eval_every": 3}], ids=["the short way", "the long way"])
def test_the_copies_that_a_run_begins_with_lie_where_those_of_the_last_did(backend, way, monkeypatch):
    """Of large networks; a larger one than may be spared, another one, and two at once take new memory."""
    monkeypatch.setattr(spec, "_spare", spare := [])
    x, y = np.ones((8, 40), np.float32), np.ones((8, 6))

    def kept(width):
        """Addresses of what is spared after a run of a new network, the same after each."""
        net = fastbp.MLP((40, width, 6), seed=1, backend=backend)
        addresses = []
        for _ in range(3):
            net.fit(x, y, optimizer=RULE, steps=3, **way)
            addresses.append(sorted(array.ctypes.data for array in spare))
        assert addresses[0] == addresses[1] == addresses[2]
        return addresses[0]

    assert kept(4) == []  # small ones do not go there
    first = kept(400)
    assert len(first) == 2  # parameters and velocities
    assert len(kept(401)) == 2 and {array.size for array in spare} == {fastbp.MLP((40, 401, 6))._spec.buffer_size}
    monkeypatch.setattr(spec, "_MOST_SPARE", 50_000)
    assert kept(402) == []  # each is larger


def test_memory_for_copies_belongs_to_one_caller_at_a_time(monkeypatch):
    monkeypatch.setattr(spec, "_spare", [])
    array, rooms = np.arange(10_000.0), []
    spec.give_back(spec.room_for([array, array, np.ones(9)]))
    assert [a.nbytes for a in spec._spare] == [array.nbytes] * 2
    for _ in range(3):
        rooms += spec.room_for([array, array])
    assert spec._spare == [] and len({room.ctypes.data for room in rooms}) == 6
    assert all(room.shape == array.shape and room.dtype == array.dtype for room in rooms)


# ------------------------------------------------------------------ the engine's allocator


@pytest.fixture
def allocations():
    need_extension()
    from fastbp import _engine

    return _engine.allocations


RUNS = {
    "tiny": ((2, 3, 1), {"batch_size": 8}),
    "momentum, shuffled, smaller last batch": ((6, 9, 3), {"batch_size": 7, "optimizer": RULE}),
    "weighted": ((6, 9, 3), {"batch_size": 7, "sample_weight": WEIGHT}),
    "weighted by targets": ((6, 9, 5), {"batch_size": 7, "sample_weight": np.outer(WEIGHT, [1, 0, 2, 1, 3])}),
    "one row": ((17, 33, 5), {"batch_size": 1}),
    "wide rows": ((256, 16, 3), {"batch_size": 8, "optimizer": RULE}),
    "in order": ((6, 9, 3), {"batch_size": 7, "shuffle": False}),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_fit_of_10_steps_allocates_as_often_as_one_of_10_000(allocations, dtype, run):
    sizes, options = RUNS[run]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, sizes[0])).astype(dtype), rng.normal(size=(40, sizes[-1])).astype(dtype)
    counts = []
    for steps in (10, 10_000):
        net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, seed=1, backend="cython")
        before = allocations()[2]
        net.fit(x, y, steps=steps, **options)
        counts.append(allocations()[2] - before)
    assert counts[0] == counts[1] > 0
    before = allocations()
    net.fit(x, y, steps=100, **options)
    assert allocations() == before  # the program is kept for the next fit


# Steps of one network that differ in loss, rule, rows, what is frozen, or whether they fail.
STEPS = (
    {"loss": "mse", "optimizer": RULE},
    {"loss": "huber", "optimizer": "adam"},
    {"loss": "mse", "optimizer": RULE, "rows": 33},
    {"loss": "log_cosh", "optimizer": "adam"},
    {"loss": "mse", "optimizer": "adam", "fails": True},
    {"loss": "huber", "optimizer": SGD(lr=0.01, clip_norm=0.1), "rows": 40},
    {"loss": "huber", "optimizer": "adam", "rows": 35, "frozen": True},
    {"loss": "mse", "optimizer": RULE, "frozen": True},
)


@pytest.mark.parametrize("sizes", [(6, 9, 3), (17, 33, 20, 5), (40, 64, 1)])
@pytest.mark.parametrize("dropout", [0, 0.3])
def test_steps_with_several_losses_and_rules_share_a_workspace_and_nothing_else(allocations, dtype, sizes, dropout):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, sizes[0])).astype(dtype), rng.normal(size=(64, sizes[-1])).astype(dtype)
    ended, taken, huge = [], [], np.finfo(dtype).max / 8
    for shares in (True, False):
        net = fastbp.MLP(sizes, activation=["gelu", *["tanh"] * (len(sizes) - 3)], dropout=dropout,
                         dtype=dtype, seed=1, backend="cython")  # fmt: skip
        before = allocations()[1]
        for options in (*STEPS, *STEPS):
            step = dict(options)
            rows = slice(step.pop("rows", 64))
            is_frozen = step.pop("frozen", False)
            net.freeze(0, weight=is_frozen, bias=is_frozen)
            if not shares:
                net._programs._trainer = None
            if step.pop("fails", False):
                with pytest.raises(fastbp.NonFiniteError):
                    net.train_step(x[rows] * huge, y[rows] * huge, **step)
            else:
                net.forward(x[:20])
                net.train_step(x[rows], y[rows], **step)
        ended.append(net.params.copy())
        taken.append(allocations()[1] - before)
    assert np.array_equal(*ended) and np.isfinite(ended[0]).all()
    assert taken[0] < 0.6 * taken[1]


def test_only_what_trains_shares_a_workspace():
    need_extension()
    net = build("cython")
    net.train_step(X, Y, loss="mse", optimizer=RULE)
    alone = backends.engine().allocations()[1]
    net.evaluate(X, Y, loss="mse")
    net.forward(X)
    for program in [*net._pending[0][:1], *(one for idle in net._programs._idle.values() for one in idle)]:
        assert program.workspace_bytes > 0
    assert backends.engine().allocations()[1] - alone > 2 * 64 * (16 + 16) * 4  # activations and deltas of each
    grad_x = net.backward(Y)
    net.train_step(X, Y, loss="huber", optimizer="adam")
    with pytest.raises(RuntimeError, match="no forward is pending"):
        net.backward(Y)
    assert grad_x.shape == X.shape


def test_a_program_is_like_one_of_its_own_network_alone():
    need_extension()
    net, other = build("cython"), build("cython")
    for one in (net, other):
        one.train_step(X, Y, loss="mse", optimizer=RULE)
    program = net._programs._trainer
    with pytest.raises(ValueError, match="same network"):
        plan.program(program.plan, other.params, program)


def test_repeated_calls_allocate_nothing_new(allocations):
    net = build("cython")

    def work():
        for call in CALLS.values():
            call(net, X, Y, WEIGHT)

    work()
    work()
    before = allocations()
    for _ in range(20):
        work()
    live_buffers, live_bytes, total = allocations()
    assert (live_buffers, live_bytes) == before[:2]
    assert total == before[2]


def test_the_engine_holds_nothing_once_its_networks_are_gone(allocations):
    gc.collect()
    before = allocations()[:2]
    nets = [build("cython", dtype=dtype) for dtype in (np.float32, np.float64) for _ in range(3)]
    for net in nets:
        for call in CALLS.values():
            call(net, X, Y, WEIGHT)
    held = allocations()
    assert held[0] > before[0] and held[1] > before[1]
    del net, nets
    gc.collect()
    assert allocations()[:2] == before


def test_predict_does_not_take_more_memory_for_more_rows(allocations):
    net = build("cython")
    net.predict(X[:1].repeat(300, axis=0))
    before = allocations()
    net.predict(X[:1].repeat(100_000, axis=0))
    net.evaluate(X, Y, loss="mse")
    net.evaluate(X[:1].repeat(100_000, axis=0), Y[:1].repeat(100_000, axis=0), loss="mse")
    net.hidden(X[:1].repeat(100_000, axis=0))
    net.input_gradient(X[:1].repeat(100_000, axis=0), 0)
    assert allocations()[1] < before[1] + 1_000_000


# ------------------------------------------------------------------ guards

GUARDED = """
    import itertools, os, sys
    import numpy as np, fastbp
    from fastbp import _engine

    _engine.set_guard(True)
    dtype, sizes_of = sys.argv[1], sys.argv[2]
    rule = fastbp.SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1, **eval(sys.argv[3]))

    def verbs(net, X, y, batch):
        for shuffle, loss, weight in ((True, "mse", None), (False, "half_squared_error", np.arange(1.0, len(X) + 1))):
            net.fit(X, y, loss=loss, sample_weight=weight, batch_size=batch, steps=3, shuffle=shuffle, optimizer=rule)
        if net.sizes[-1] > 1:
            weight = (np.arange(y.size).reshape(y.shape) % 3).astype(float)
            net.fit(X, y, loss="mse", sample_weight=weight, batch_size=batch, steps=3, optimizer=rule)
            net.loss_and_grad(X, y, loss="mse", sample_weight=weight)
            net.fit(X, np.arange(len(X)) % net.sizes[-1], loss="softmax_cross_entropy", batch_size=batch, steps=2)
        net.predict(X)
        for layer in range(len(net.sizes) - 2):
            net.hidden(X, layer)
        net.input_gradient(X, np.arange(len(X)) % net.sizes[-1])
        net.input_gradient(X[:1], -1)
        net.loss_and_grad(X, y, loss="mse")
        output = net.forward(X[:batch])
        net.backward(y[:batch])
        net.backward(y[:batch], accumulate=True)
        net.update(rule)
        net.forward(X[:batch])
        net.backward_update(y[:batch], rule)
        return output

    rng = np.random.default_rng(0)
    activations = itertools.cycle(sorted(set(fastbp.activations.TABLE) - {"exp"}))   # it overflows in deep networks
    for sizes, batch in eval(sizes_of):
        os.write(2, f"{sizes} {batch}\\n".encode())   # the last line before a crash says where
        X = rng.normal(size=(batch + 2, sizes[0])).astype(dtype)
        y = rng.normal(size=(batch + 2, sizes[-1])).astype(dtype)
        net = fastbp.MLP(sizes, activation=next(activations), dtype=dtype, seed=0, backend="cython")
        assert np.isfinite(verbs(net, X, y, batch)).all()
        del net    # frees the programs, and so checks their guards
    print("unharmed", _engine.allocations()[0])
"""
GUARDED_SIZES = {  # (sizes, batch)
    "widths 1..33 and batches 1..17": [((w, w, 34 - w), b) for w in range(1, 34) for b in range(1, 18)],
    "depths": [((w,) * d, b) for w in (1, 3, 8, 16, 17) for d in (2, 4, 6) for b in (1, 5)],
    "tiny": [((i, h, 1 + (i + h) % 4), 1 + (5 * i + h) % 19) for i in range(1, 9) for h in range(1, 9)],
    "narrow waists": [((w, 1, w), b) for w in (1, 31, 65) for b in (1, 16, 33)],
    "wide": [(s, b) for s in ((256, 48, 10), (65, 130, 1), (130, 65, 17), (784, 32, 10)) for b in (1, 17, 32)],
}


@pytest.mark.parametrize("what", GUARDED_SIZES)
def test_no_byte_beside_a_workspace_buffer_is_read_or_written(isa, dtype, what):
    """Each ends before an unmapped page and begins after guard bytes that are checked when it is freed."""
    cases = GUARDED_SIZES[what]
    if len(cases) > 100 and not every_case:  # two dtypes, half of the cases each: an odd number of batches to a width
        cases = cases[dtype.itemsize // 8 :: 2]
    assert python(GUARDED, dtype, cases, {}, timeout=120) == "unharmed 0\n"


def test_nor_is_one_by_what_is_done_around_a_rule(isa, dtype):
    cases = [((i, h, o), b) for i in (1, 16) for h in (5, 16, 17) for o in (1, 9, 33) for b in (1, 9)]
    around = {"clip_norm": 0.1, "clip_value": 0.1, "l1": 0.1, "max_norm": 0.5, "average": 0.9}
    assert python(GUARDED, dtype, cases, around, timeout=120) == "unharmed 0\n"


def test_results_under_guard_are_those_without(isa, dtype):
    """The guard changes where buffers lie and what they hold at first, and nothing else."""
    out = python("""
        import hashlib, sys
        import numpy as np, fastbp
        from fastbp import _engine

        def digest(guard):
            _engine.set_guard(guard)
            rng, found = np.random.default_rng(0), hashlib.sha256()
            for width in (1, 5, 16, 33, 65):
                net = fastbp.MLP((width, 2 * width, 3), dtype=sys.argv[1], seed=0, backend="cython")
                X, y = rng.normal(size=(19, width)), rng.normal(size=(19, 3))
                net.fit(X, y, batch_size=4, epochs=3, optimizer=fastbp.SGD(lr=0.01, momentum=0.9))
                net.forward(X)
                for array in (net.flatten(), net.predict(X), net.loss_and_grad(X, y, loss="mse")[1], net.backward(y)):
                    found.update(array.tobytes())
            return found.hexdigest()
        print(len({digest(False), digest(True)}))
    """, dtype)  # fmt: skip
    assert out == "1\n"


# ------------------------------------------------------------------ stale values


def poisoned(shape, dtype):
    return np.full(shape, np.nan, dtype)


@pytest.mark.parametrize("width", [*range(1, 34), 48, 65, 130])
def test_outputs_that_held_nan_keep_no_trace(kernels, dtype, width):
    """What a backend writes into, it writes whole: outputs, input gradients, gradients with their padding."""
    rng = np.random.default_rng(0)
    sizes = (width, 5, 34 - width if width < 34 else width)
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, seed=0, backend=kernels)
    program = backends.program(kernels)(
        plan.make_plan(net._spec, 8, backend=kernels, loss=fastbp.losses.TABLE["mse"], optimizer=RULE.row), net.params
    )
    for n in (8, 3, 1):  # fewer rows than the workspace has seen
        x, g = rng.normal(size=(n, width)).astype(dtype), rng.normal(size=(n, net.sizes[-1])).astype(dtype)
        results = []
        for make in (np.zeros, poisoned):
            out, grad_input = make((n, net.sizes[-1]), dtype), make((n, width), dtype)
            grads = aligned_zeros(net._spec.buffer_size, dtype)
            grads[...] = make(grads.shape, dtype)
            program.forward(x, out, keep=True)
            program.backward(grads, grad_output=g, grad_input=grad_input)
            results.append([out.tobytes(), grad_input.tobytes(), net._spec.flatten(grads).tobytes()])
            assert np.isfinite(out).all() and np.isfinite(grad_input).all()
            assert np.isfinite(net._spec.flatten(grads)).all()
        assert results[0] == results[1]


def test_a_batch_after_a_batch_of_nan_is_clean(kernels, dtype):
    """Nothing of an earlier batch stays in the workspace: not in more rows, not in padding, not in the gradient."""
    net, twin = build(kernels, dtype=dtype), build(kernels, dtype=dtype)
    bad = np.full((40, 6), np.nan)
    bad_y = np.zeros((40, 3))
    for rows in (40, 7, 1):
        net.predict(bad)
        net.evaluate(bad, bad_y, loss="mse")
        net.loss_and_grad(bad, bad_y, loss="mse")
        net.forward(bad)
        net.backward(np.full((40, 3), np.nan))
        with pytest.raises(fastbp.NonFiniteError):
            net.train_step(bad, bad_y, optimizer=RULE)
        with pytest.raises(fastbp.NonFiniteError):
            net.fit(bad, bad_y, steps=3, batch_size=40, optimizer=RULE)
        for one in (net, twin):
            one.reset_training()
            one.fit(X[:rows], Y[:rows], batch_size=40, steps=2, optimizer=RULE)
        for call in CALLS.values():
            found, wanted = (call(one, X[:rows], Y[:rows], None) for one in (net, twin))
            if isinstance(wanted, fastbp.History):
                found, wanted = found.to_dict(), wanted.to_dict()
            assert frozen(found) == frozen(wanted)
        assert net.flatten().tobytes() == twin.flatten().tobytes()


# ------------------------------------------------------------------ the caller's arrays

GUARDED_OPS = """
    import ctypes, itertools, mmap, os, sys
    import numpy as np, fastbp
    from fastbp import _engine, ops

    _engine.set_guard(True)   # scratch too
    dtype, sizes = np.dtype(sys.argv[1]), eval(sys.argv[2])
    libc, PAGE, maps = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, {}

    def at_the_end(array, place):
        '''A copy that ends right before a page that cannot be touched; those of one place share their pages.'''
        n_bytes = array.size * array.itemsize
        if place not in maps:
            memory = mmap.mmap(-1, 64 * PAGE)
            start = np.frombuffer(memory, np.uint8).ctypes.data
            assert libc.mprotect(ctypes.c_void_p(start + 63 * PAGE), ctypes.c_size_t(PAGE), 0) == 0
            maps[place] = memory
        at = 63 * PAGE - n_bytes
        copy = np.frombuffer(maps[place], array.dtype, array.size, at).reshape(array.shape)
        copy[...] = array
        return copy

    rng = np.random.default_rng(0)
    make = lambda place, *shape: at_the_end(rng.normal(size=shape).astype(dtype), place)
    rules = [0.01, fastbp.Adam(0.01), fastbp.SGD(0.01, momentum=0.9, nesterov=True)]
    for k, (n, n_in, n_out) in enumerate(sizes):
        os.write(2, f"{n} {n_in} {n_out}\\n".encode())   # the last line before a crash says where
        name, rule = ("relu", "silu", "tanh", "identity")[k % 4], rules[k % 3]
        x, w, b, g = make("x", n, n_in), make("w", n_in, n_out), make("b", n_out), make("g", n, n_out)
        a, z, gi, gw, gb = (make(*p) for p in (("a", n, n_out), ("z", n, n_out), ("gi", n, n_in), ("gw", n_in, n_out),
                                               ("gb", n_out)))
        ops.linear(x, w, b, name, out=a, out_z=z)
        ops.linear(x, w, b, name, out=a)
        kept = z if name == "silu" else None
        ops.linear_backward(g, a, x, w, name, z=kept, out=(gi, gw, gb))
        slots = {key: tuple(at_the_end(slot, key + str(i)) for i, slot in enumerate(pair))
                 for key, pair in ops.slots(rule, w, b).items()}
        for step in range(2):
            ops.linear_backward_update(g, a, x, w, b, rule, name, z=kept, slots=slots, step=step, out=gi)
        ops.sgd_update(w, gw, 0.1)
        ops.activation(z, "gelu", out=a)
        ops.activation_backward(g, a, "gelu", z=z, out=g)
        value, _ = ops.loss("softmax_cross_entropy", z, np.arange(n) % n_out, out=a)
        assert all(np.isfinite(array).all() for array in (x, w, b, g, a, z, gi, gw, gb)) and np.isfinite(value)
        assert ops._short.linear(x, w, b, name, a, None) is a   # where they lie
    print("unharmed", _engine.allocations()[0])
"""


@pytest.mark.parametrize("rows", [1, 2, 7, 25])
def test_ops_touch_no_byte_past_the_end_of_an_array(isa, dtype, rows):
    """Each array, and each piece of scratch, ends before an unmapped page."""
    widths = [*range(1, 20), 31, 32, 33, 37, 64, 65, 130]
    sizes = [(rows, i, o) for i in widths for o in widths]
    assert python(GUARDED_OPS, dtype, sizes if every_case else sizes[rows % 5 :: 5], timeout=120) == "unharmed 0\n"
