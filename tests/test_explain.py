"""`MLP.explain`: families as the engine chooses them, at each side of each rule; FLOPs, bytes and workspace."""

import numpy as np
import pytest
from conftest import need_extension
from test_ulp import VECTOR_BYTES

import fastbp
from fastbp import SGD, backends
from fastbp.backends.plan import make_plan, program
from fastbp.inspection.explain import explain


def explained(net, batch_size, loss="mse", optimizer=None):
    row = fastbp.spec.loss(loss, net._spec)
    rule = fastbp.spec.optimizer(optimizer or "sgd", net._spec)
    plan = make_plan(net._spec, batch_size, backend=net.backend, loss=row, optimizer=rule.row)
    return explain(program(plan, net.params))


def families(sizes, batch_size, dtype=np.float32, **more):
    net = fastbp.MLP(sizes, backend="cython", dtype=dtype, seed=1, **more)
    return [layer.how.family.name for layer in explained(net, batch_size).layers]


def test_each_rule_and_its_other_side(isa, dtype):
    """Who changes a rule in C++ finds its words in `FAMILIES` of fastbp/backends/cython.py, and its numbers here."""
    assert families((8, 8, 4), 100, dtype) == ["tiny", "tiny"]
    lanes = VECTOR_BYTES[isa] // dtype.itemsize
    units = min(2 * lanes, 16) if lanes > 2 else 8
    assert families((16 if lanes > 2 else 8, units, 4), 100, dtype) == ["tiny", "tiny"]
    assert families((17, units, 4), 100, dtype) == ["direct", "narrow"]
    assert families((8, units + 1, 4), 100, dtype) == ["direct", "narrow"]
    assert families((8, 8, 8, 4), 100, dtype) == ["tiny", "tiny", "tiny"]
    assert families((9, 8, 8, 4), 100, dtype) == ["direct", "direct", "narrow"]
    assert families((8, 8, 5), 100, dtype) == ["direct", "direct"]
    assert families((8, 17, 4), 1, dtype) == ["single", "narrow"]
    assert families((8, 9, 5), 1, dtype) == ["single", "single"]
    outputs = 4 * VECTOR_BYTES[isa] // dtype.itemsize
    assert families((10, outputs + 1, outputs), 24, dtype) == ["few", "direct"]
    assert families((10, outputs + 1, outputs + 1), 25, dtype) == ["direct", "direct"]
    assert families((10, outputs + 1, outputs + 1), 2, dtype) == ["few", "few"]


def test_every_family_has_a_name_and_a_reason():
    need_extension()
    from fastbp.backends.cython import FAMILIES

    seen = {name for sizes in ((8, 4), (99, 4), (99, 99)) for rows in (1, 2, 25) for name in families(sizes, rows)}
    if backends.lacks_bfloat16("cython", backends.engine().choose_isa()):
        seen.add("bfloat16")
    else:
        seen |= {*families((8, 4), 25, matmul_precision="bfloat16")}
    assert seen == {family.name for family in FAMILIES}
    assert all(family.reason for family in FAMILIES)


def test_the_reference_says_numpy(capsys):
    net = fastbp.MLP((3, 5, 2), backend="reference", dtype=np.float16)
    found = explained(net, 4)
    assert [layer.how.family.name for layer in found.layers] == ["numpy", "numpy"]
    assert found.plan.isa is None and found.workspace_bytes == 0
    net.explain(4)
    out = capsys.readouterr().out
    assert "reference" in out and "NumPy's own" in out and "allocated by each step" in out


@pytest.mark.parametrize("sizes, rows", [((2, 3, 1), 8), ((20, 40, 3), 1), ((20, 40, 30), 33)])
def test_workspace_bytes_are_what_the_engine_allocates(sizes, rows, dtype):
    need_extension()
    net = fastbp.MLP(sizes, backend="cython", dtype=dtype, seed=1)
    before = backends.engine().allocations()[1]
    kept = explained(net, rows)
    assert backends.engine().allocations()[1] == before  # given back with the program
    plan = kept.plan
    held = program(plan, net.params)
    assert kept.workspace_bytes == held.workspace_bytes == backends.engine().allocations()[1] - before > 0


def test_flops_count_each_multiply_add_of_each_product_as_two(backend):
    layers = explained(fastbp.MLP((7, 5, 3), backend=backend), 10).layers
    assert [layer.flops for layer in layers] == [2 * (2 * 10 * 7 * 5), 3 * (2 * 10 * 5 * 3)]


def test_bytes_count_each_array_for_each_use(backend):
    """By hand, for 7-5-3 with 10 rows: parameters, weight for grad_input, x, a, z where it is kept, delta."""
    plain = fastbp.MLP((7, 5, 3), activation="relu", dtype=np.float64, backend=backend)
    first = 3 * (8 * 5) + 10 * (2 * 7 + 2 * 5 + 2 * 5)
    last = 3 * (6 * 3) + 5 * 3 + 10 * (2 * 5 + 2 * 3 + 3 * 3)
    assert [layer.n_bytes for layer in explained(plain, 10).layers] == [8 * first, 8 * last]
    velocity = explained(plain, 10, optimizer=SGD(momentum=0.9))
    assert [layer.n_bytes for layer in velocity.layers] == [8 * (first + 2 * 8 * 5), 8 * (last + 2 * 6 * 3)]
    assert velocity.n_bytes == sum(layer.n_bytes for layer in velocity.layers)
    kept = fastbp.MLP((7, 5, 3), activation="gelu", bias=False, backend=backend)  # float32, and z is kept
    assert explained(kept, 10).layers[0].n_bytes == 4 * (first - 3 * 5 + 2 * 10 * 5)


def test_what_is_frozen_costs_no_way_back_and_is_told(backend, capsys):
    """By hand, for 7-5-3-2 with 10 rows."""
    net = fastbp.MLP((7, 5, 3, 2), activation="relu", dtype=np.float64, backend=backend, dropout=(0.5, 0), seed=0)
    net.freeze(0)
    net.freeze(2, weight=False)
    plan = net._plan_of_step(10, "mse", "sgd")
    layers = explain(program(plan, net.params)).layers
    assert [layer.flops for layer in layers] == [2 * 10 * 7 * 5, 2 * (2 * 10 * 5 * 3), 3 * (2 * 10 * 3 * 2)]
    first, middle = 8 * 5 + 10 * (7 + 5), 3 * (6 * 3) + 10 * (2 * 5 + 2 * 3 + 2 * 3)  # no delta; nothing below
    last = 4 * 2 + 2 * 3 * 2 + 3 * 2 + 10 * (2 * 3 + 2 * 2 + 3 * 2)  # the bias is read alone
    assert [layer.n_bytes for layer in layers] == [8 * first, 8 * middle, 8 * last]
    for show in (net.summary, net.explain):
        show(10)
        out = capsys.readouterr().out
        assert "dropout     0.5 of the outputs of layer 0\n" in out
        assert "frozen      layer 0, the bias of layer 2\n" in out
        assert f"{sum(layer.flops for layer in layers):,}" in out


def test_a_bias_that_trains_alone_wants_its_deltas_and_those_above_it(backend):
    """By hand, for 7-5-3-2 with 10 rows, the first two weights frozen."""
    net = fastbp.MLP((7, 5, 3, 2), activation="relu", dtype=np.float64, backend=backend, seed=0)
    for k in (0, 1):
        net.freeze(k, bias=False)
    layers = explain(program(net._plan_of_step(10, "mse", "sgd"), net.params)).layers
    assert [layer.flops for layer in layers] == [2 * 10 * 7 * 5, 2 * (2 * 10 * 5 * 3), 3 * (2 * 10 * 3 * 2)]
    first = 8 * 5 + 2 * 5 + 10 * (7 + 2 * 5 + 2 * 5)  # delta: written, and read for the bias
    middle = 6 * 3 + 2 * 3 + 5 * 3 + 10 * (5 + 2 * 3 + 3 * 3)  # and for what is below
    last = 3 * (4 * 2) + 3 * 2 + 10 * (2 * 3 + 2 * 2 + 3 * 2)
    assert [layer.n_bytes for layer in layers] == [8 * first, 8 * middle, 8 * last]


def test_explain_prints_all_of_it_and_returns_nothing(kernels, capsys):
    net = fastbp.MLP((7, 50, 10), backend=kernels)
    shown = net.explain(20, loss="softmax_cross_entropy", optimizer=SGD(momentum=0.9))
    assert shown is None
    out = capsys.readouterr().out
    found = explained(net, 20, "softmax_cross_entropy", SGD(momentum=0.9))
    assert out == f"{found}\n"
    told = [found.sharing, *(layer.how.family.reason for layer in found.layers)]
    isa = found.plan.isa or ("LLVM" if kernels == "numba" else "NumPy")
    for text in (kernels, isa, "20 rows", "softmax_cross_entropy", "sgd_momentum", "7 -> 50",
                 f"{found.flops:,} FLOP", f"{found.n_bytes:,} bytes", *told):
        assert text in out
    assert all(len(line) <= 120 and line == line.rstrip() for line in out.splitlines())
    assert fastbp.MLP((7, 50, 10), backend=kernels).explain() is None and "32 rows" in capsys.readouterr().out


def test_explain_changes_nothing(backend):
    net = fastbp.MLP((3, 5, 2), backend=backend, seed=1)
    before = net.flatten()
    net.forward(np.ones((4, 3)))
    net.explain(4)
    assert net.backward(np.ones((4, 2))).shape == (4, 3)  # the pending forward is still there
    assert net.step == 0 and (net.flatten() == before).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 2.0}, "batch_size must be an integer"),
        ({"loss": "mes"}, "did you mean 'mse'"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastbp.MLP((3, 2)).explain(**arguments)
