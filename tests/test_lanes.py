"""Networks side by side, one per lane: against networks one by one, and each as if it were alone, bit for bit."""

import random

import numpy as np
import pytest
from conftest import ISAS, every_case, need_extension
from lanes import Learner, many, train
from targets import outputs_for, targets
from tolerance import assert_close

import fastbp
from fastbp import activations, losses
from fastbp.backends.plan import serves_lanes
from fastbp.backends.protocol import DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE

need_extension()
WIDE = [isa for isa in ISAS if isa in ("avx2", "avx512")]
pytestmark = pytest.mark.skipif(not WIDE, reason="no vectors of 32 bytes here, hence no lanes")

RULES = {  # with an eps that keeps small gradients from deciding
    "sgd": lambda lr: fastbp.SGD(lr=lr),
    "decay": lambda lr: fastbp.SGD(lr=lr, weight_decay=0.1),
    "momentum": lambda lr: fastbp.SGD(lr=lr, momentum=0.9),
    "nesterov": lambda lr: fastbp.SGD(lr=lr, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda lr: fastbp.Adam(lr=lr, eps=1e-2),
    "adamw": lambda lr: fastbp.AdamW(lr=lr, eps=1e-2, weight_decay=0.1),
    "rmsprop": lambda lr: fastbp.RMSprop(lr=lr, eps=1e-2),
    "adagrad": lambda lr: fastbp.Adagrad(lr=lr, eps=1e-2),
    "adadelta": lambda lr: fastbp.Adadelta(lr=lr, eps=1e-2),
}


@pytest.fixture(params=WIDE or ["none"])
def isa(request, monkeypatch):
    """Each ISA that has lanes, forced."""
    monkeypatch.setenv("FASTBP_ISA", request.param)
    return request.param


def data(rng, sizes, loss, n, labels=False):
    y = targets(rng, loss, n, sizes[-1])
    if labels:
        y = rng.integers(0, sizes[-1], n)
    return rng.normal(size=(n, sizes[0])).astype(np.float32).astype(float), y


def learners(rng, n, sizes, *, activation="tanh", loss="mse", rule="sgd", dtype="float64", rows=24, own=False,
             weighted=False, bias=True, labels=False, **more):  # fmt: skip
    """n networks of one kind, with rates of their own; with one order of the same rows, or each with its own."""
    X, y = data(rng, sizes, loss, rows, labels)
    if activation == "exp":   # or it explodes
        X /= 16
    weight = rng.integers(0, 4, rows) / 2.0 if weighted else None
    made = []
    for k in range(n):
        net = fastbp.MLP(sizes, activation=activation, bias=bias, dtype=dtype, seed=int(rng.integers(1 << 30)),
                         backend="cython")  # fmt: skip
        of_own = rng.permutation(rows)[: rows - k % 5].astype(np.int64) if own else None
        made.append(Learner(net, X, y, RULES[rule](0.02 * (1 + k / n)), loss=loss, weight=weight, rows=of_own,
                            seed=k if own else 7, **more))  # fmt: skip
    return made


# ------------------------------------------------------------------ as one by one


def made_up(seed):
    """Keywords of a random case."""
    rng = random.Random(seed)
    loss = rng.choice([name for name in losses.TABLE if "log_loss" not in name])
    sizes = [rng.randint(1, 17) for _ in range(rng.randint(2, 5))]
    sizes[-1] = outputs_for(loss, rng.randint(1, 8))
    one_hidden = rng.random() < 0.4   # the kernel for these has its own text
    if one_hidden:
        sizes = [rng.randint(1, 17), rng.randint(1, 17), outputs_for(loss, 1)]
    activation = rng.choice(["identity", "tanh", "relu"] if one_hidden else [*activations.TABLE])
    labels = losses.TABLE[loss].labels and rng.random() < 0.5
    return {
        "n": rng.choice([1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33]),
        "sizes": sizes,
        "activation": activation,
        "loss": loss, "labels": labels,
        "rule": rng.choice(["sgd", "adam"] if one_hidden else [*RULES]),
        "rows": rng.randint(1, rng.choice([40, 120])), "own": rng.random() < 0.5, "weighted": rng.random() < 0.5,
        "bias": rng.random() < 0.8,
    }, rng.randint(1, rng.choice([20, 80])), rng.random() < 0.5  # fmt: skip  # blocks of 8, or of 32, and more of them


@pytest.mark.parametrize("seed", range(2000 if every_case else 150))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanes_train_as_the_reference_does(seed, dtype, monkeypatch):
    monkeypatch.setenv("FASTBP_ISA", WIDE[seed % len(WIDE)])
    case, batch_size, shuffle = made_up(seed)
    if case["own"]:
        case["rows"] += 5
    steps = 5
    group = learners(np.random.default_rng(seed), dtype=dtype, **case)
    alone = [one.copy("float64") for one in group]
    with np.errstate(all="ignore"):
        for one in alone:
            assert one.train(steps, batch_size, shuffle, "reference").status == DONE
    status, epochs = train(group, steps, batch_size, shuffle)
    assert not status.any()
    # roundings of a step, in its sums and between them
    k = steps * (sum(case["sizes"]) + batch_size) * 4
    for one, wanted, ended in zip(group, alone, epochs):
        assert_close(one.net.flatten(), wanted.net.flatten(), dtype, k, max(1, np.abs(wanted.net.flatten()).max()))
        assert one.state.count == wanted.state.count and (one.state.place == wanted.state.place).all()
        done = ~np.isnan(wanted.losses)
        assert np.array_equal(done, ~np.isnan(one.losses)) and done.sum() == ended
        if ended:
            assert_close(one.losses[done], wanted.losses[done], dtype, k, max(1, np.abs(wanted.losses[done]).max()))
        assert_close(one.partial, wanted.partial, dtype, k, max(1, np.abs(wanted.partial).max()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [[3, 5, 1], [2, 6, 7, 2]], ids=str)
def test_state_of_every_rule_is_kept(rule, sizes, isa):
    """Slots go into the lanes and back: two calls are one, and go on one by one."""
    group = learners(np.random.default_rng(3), 9, sizes, rule=rule)
    twins = [one.copy() for one in group]
    lanes = many(group, 5, True)
    for steps in (3, 4):
        train(group, steps, 5, lanes=lanes)
    train(twins, 7, 5, True)
    assert [one.bits for one in group] == [one.bits for one in twins]
    alone = [one.copy() for one in group]
    train(group, 4, 5, True)
    for one, wanted in zip(group, alone):
        wanted.train(4, 5, True, "cython")
        assert_close(one.net.flatten(), wanted.net.flatten(), "float64", 4 * (sum(sizes) + 5))
        for name, slot in wanted.state.slots.items():
            found = one.net._spec.flatten(one.state.slots[name])
            assert_close(found, wanted.net._spec.flatten(slot), "float64", 4 * (sum(sizes) + 5))


# ------------------------------------------------------------------ the invariant

KINDS = {
    "hidden": {"sizes": [3, 5, 1], "activation": "relu", "rule": "adam"},
    "hidden, another loss": {"sizes": [4, 3, 1], "activation": "tanh", "loss": "log_cosh"},
    "layers": {"sizes": [3, 17, 6, 2], "activation": "gelu", "rule": "momentum"},
    "layers, adam": {"sizes": [9, 8, 16], "rule": "adam", "activation": "sigmoid"},
    "softmax": {"sizes": [2, 9, 5], "loss": "softmax_cross_entropy", "labels": True},
    "pairs": {"sizes": [2, 5, 4], "loss": "gaussian_nll"},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_neighbours_form_or_isa(kind, dtype, weighted, monkeypatch):
    rng = np.random.default_rng(1)
    group = learners(rng, 21, dtype=dtype, weighted=weighted, rows=43, **KINDS[kind])
    steps = [9 + k % 4 for k in range(21)]

    def bits(chosen, isa, own=False, each=12):
        monkeypatch.setenv("FASTBP_ISA", isa)
        twins = [group[k].copy() for k in chosen]
        if own:   # the same rows, told otherwise, among them one that has others
            for twin in twins:
                twin.rows = np.arange(43)
            stranger = group[0].copy()
            stranger.rows = np.arange(3, 42)
            twins.append(stranger)
        todo = [steps[k] for k in chosen] + [5] * own
        lanes = many(twins, 10, True)
        for _ in range(0, 12, each):
            now = np.minimum(todo, each)
            train(twins, now, 10, lanes=lanes)
            todo = todo - now
        return {k: twin.bits for k, twin in zip(chosen, twins)}

    wanted = bits(range(21), WIDE[-1])
    for isa in WIDE:
        assert bits(range(21), isa) == wanted, "another ISA"
        for k in (0, 7, 20):
            assert bits([k], isa) == {k: wanted[k]}, "alone"
        for n in (4, 8, 9, 17):
            chosen = random.Random(n).sample(range(21), n)
            assert bits(chosen, isa) == {k: wanted[k] for k in chosen}, f"{n} in another order"
            assert bits(chosen, isa, own=True) == {k: wanted[k] for k in chosen}, "own rows"
        assert bits(range(21), isa, each=5) == wanted, "in several calls"


def test_lanes_at_different_places_of_different_rows(isa):
    rng = np.random.default_rng(5)
    group = [one for n in (24, 31, 40) for one in learners(rng, 5, [3, 6, 2], rows=n)]
    for k, one in enumerate(group):
        one.seed = k
        one.state.place[:] = k % 3, k % 4 * 7
        one.partial[:] = k % 4 * 3.5, k % 4 * 7
    alone = [one.copy() for one in group]
    for one in alone:
        train([one], 17, 7, True)
    train(group, 17, 7, True)
    assert [one.bits for one in group] == [one.bits for one in alone]
    assert len({one.net.flatten().tobytes() for one in group}) == len(group)


@pytest.mark.parametrize("other", ["X", "y", "weight", "rows", "seed", "epoch", "start"])
def test_lanes_that_differ_in_one_thing_alone(other, isa):
    """What is read once for all lanes is what all lanes read."""
    rng = np.random.default_rng(5)
    group = learners(rng, 4, [3, 6, 2], rows=24)
    for one in group:
        one.rows, one.weight = group[0].rows, group[0].weight
    different = {
        "X": group[0].X[::-1].copy(), "y": group[0].y[::-1].copy(), "weight": rng.uniform(1, 2, 24),
        "rows": rng.permutation(24), "seed": 99,
    }  # fmt: skip
    if other in different:
        setattr(group[2], other, different[other])
    else:
        group[2].state.place[["epoch", "start"].index(other)] = 7
        group[2].partial[:] = (2.5, 7) if other == "start" else 0
    if other == "rows":
        for k in (0, 1, 3):
            group[k].rows = group[0].rows if k else np.arange(24)
    alone = [one.copy() for one in group]
    for one in alone:
        train([one], 9, 7, True)
    train(group, 9, 7, True)
    assert [one.bits for one in group] == [one.bits for one in alone]


@pytest.mark.parametrize("first", [0, 1])
def test_a_rate_that_changes_beside_one_that_does_not(first, isa):
    group = learners(np.random.default_rng(5), 4, [3, 5, 1], rows=24)
    for one in group[first::2]:
        one.rule = fastbp.SGD(fastbp.schedules.Cosine(0.1, 20))
    alone = [one.copy() for one in group]
    for one in alone:
        train([one], 9, 7)
    train(group, 9, 7)
    assert [one.bits for one in group] == [one.bits for one in alone]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_others_do_not_show(dtype, isa):
    """Rows without weights have a short way through the loss, which those with weights must not take from them."""
    group = learners(np.random.default_rng(7), 21, [3, 5, 1], activation="relu", dtype=dtype, rows=29, weighted=True)
    for one in group[::3]:
        one.weight = None
    alone = [one.copy() for one in group]
    for one in alone:
        train([one], 9, 10, True)
    train(group, 9, 10, True)
    assert [one.bits for one in group] == [one.bits for one in alone]


@pytest.mark.parametrize("sizes", [[2, 3, 1], [3, 3, 2], [5, 4, 3], [9, 4, 2]], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_copied_once_or_for_a_stretch(sizes, dtype, shuffle, isa):
    """All rows of a lane are copied where a call reads each of them, else those of some steps: the same numbers."""
    rng = np.random.default_rng(9)
    group = learners(rng, 11, sizes, dtype=dtype, rows=200, own=True)
    group[3].rows = group[8].rows = rng.integers(0, 200, 170)   # the same rows twice, in two orders
    group[4].rows = group[5].rows = None
    group[6].rows = np.arange(5, 8)
    twins = [one.copy() for one in group]
    train(group, 70, 7, shuffle)
    lanes = many(twins, 7, shuffle)
    for _ in range(14):   # of 5 steps: fewer rows than there are
        train(twins, 5, 7, lanes=lanes)
    assert [one.bits for one in group] == [one.bits for one in twins]


@pytest.mark.parametrize("shuffle", [False, True])
def test_more_rows_than_are_kept(shuffle, isa):
    """Copies of rows are kept for later calls up to 32 MiB, then all are made anew."""
    rng = np.random.default_rng(9)
    group = learners(rng, 20, [2, 3, 1], rows=60_000)
    for k, one in enumerate(group):   # 20 * 60,000 records of 32 bytes
        one.rows, one.seed = rng.permutation(60_000), k
    alone = [one.copy() for one in group]
    lanes = many(group, 1024, shuffle)
    for _ in range(2):
        train(group, 40, 1024, lanes=lanes)
    for one in alone:
        train([one], 80, 1024, shuffle)
    assert [one.bits for one in group] == [one.bits for one in alone]


@pytest.mark.parametrize("as_given", [
    lambda X: X.astype(np.float16), lambda X: np.asfortranarray(X), lambda X: X.astype(">f8"), lambda X: X[:, ::-1],
    lambda X: np.repeat(X, 2, axis=0)[::2], lambda X: (X * 4).astype(np.int16),
], ids=["half", "fortran", "swapped", "reversed", "strided", "int"])  # fmt: skip
@pytest.mark.parametrize("own", [False, True])
def test_rows_of_any_dtype_and_strides(as_given, own, isa):
    rng = np.random.default_rng(2)
    group = learners(rng, 9, [5, 4, 3], dtype="float32", own=own)
    plain = [one.copy() for one in group]
    for one, twin in zip(group, plain):
        one.X, one.y = as_given(one.X), as_given(one.y)
        twin.X, twin.y = (np.ascontiguousarray(a, np.float32) for a in (one.X, one.y))
    for some in (group, plain):
        train(some, 11, 7, True)
    assert [one.bits for one in group] == [one.bits for one in plain]


# ------------------------------------------------------------------ what fails


@pytest.mark.parametrize("sizes", [[3, 5, 1], [3, 5, 4, 2]], ids=str)
@pytest.mark.parametrize("failing", ["nan target", "loss", "rate", "overflow"])
def test_a_member_that_fails_leaves_the_others_alone(failing, sizes, isa):
    rng, rule = np.random.default_rng(4), "momentum" if len(sizes) > 3 else "sgd"
    group = learners(rng, 19, sizes, dtype="float32", activation="relu", rows=30, rule=rule)
    bad = group[11]
    if failing == "nan target":
        bad.y = bad.y.copy()
        bad.y[17] = np.nan
    elif failing == "loss":   # the parameters stay finite, and so does all of the next epoch's beginning
        bad.y, bad.rule = bad.y.copy(), RULES[rule](1e-30)
        bad.y[17] = 3e19
    elif failing == "rate":
        bad.rule = RULES[rule](3e4)
    else:   # the parameters overflow, not the loss before
        bad.rule = RULES[rule](1e38)
    others = [one.copy() for one in group if one is not bad]
    twin = bad.copy()
    steps = 10 if failing == "loss" else 14
    status, epochs = train(group, steps, 4)
    assert status[11] in (LOSS_NOT_FINITE, PARAMS_NOT_FINITE) and np.count_nonzero(status) == 1
    train(others, steps, 4)
    assert [one.bits for one in group if one is not bad] == [one.bits for one in others]
    # as after the last finite step
    done = int(bad.state.count[0])
    assert done < steps and np.isfinite(bad.net.flatten()).all()
    if failing in ("nan target", "loss"):
        assert done == 4 and status[11] == LOSS_NOT_FINITE   # row 17 is in the fifth batch
    if done:
        train([twin], done, 4)
    found, wanted = bad.bits, twin.bits
    found["losses"], wanted["losses"] = (one.losses[: epochs[11]].tobytes() for one in (bad, twin))
    assert found == wanted
    status, _ = train([twin], 1, 4)
    assert status[0], "one step more fails"


def test_failing_members_go_on_where_that_is_asked_for(isa):
    group = learners(np.random.default_rng(4), 5, [3, 5, 4, 2], dtype="float32", rows=30)
    group[2].y = group[2].y.copy()
    group[2].y[17] = np.nan
    status, epochs = train(group, 20, 4, stop=False)
    assert not status.any() and (epochs == 2).all()
    assert np.isnan(group[2].net.flatten()).all() and group[2].state.count == 20
    assert all(np.isfinite(one.net.flatten()).all() for k, one in enumerate(group) if k != 2)


def test_a_target_of_weight_0_may_be_anything(isa):
    for sizes in ([3, 5, 1], [3, 5, 4, 2]):
        group = learners(np.random.default_rng(4), 5, sizes, dtype="float32", weighted=True)
        twins = [one.copy() for one in group]
        for one in twins:
            one.y = np.where(one.weight[:, None] == 0, np.nan, one.y)
        assert np.isnan(twins[0].y).any()
        for some in (group, twins):
            assert not train(some, 9, 7)[0].any()
        assert [one.bits for one in group] == [one.bits for one in twins]


# ------------------------------------------------------------------ gradients, evaluate, forward


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind, isa):
    """Of a step of SGD, by losses that lanes give."""
    rng = np.random.default_rng(6)
    case = KINDS[kind] | {"rule": "sgd", "activation": "tanh"}
    (one,) = learners(rng, 1, rows=11, **case)
    one.rule = fastbp.SGD(lr=1.0)
    start = one.net.flatten()
    near = [one.copy() for _ in range(2 * len(start))]
    for k, twin in enumerate(near):
        v = start.copy()
        v[k // 2] += 1e-6 * (1 - 2 * (k % 2))
        twin.net.unflatten(v)
    found = many(near, 11).evaluate(np.arange(len(near)), one.X, one.y, None, 11.0)
    train([one], 1, 11)
    np.testing.assert_allclose(start - one.net.flatten(), (found[::2] - found[1::2]) / 2e-6, atol=2e-9)


@pytest.mark.parametrize("n", [1, 9, 33])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_and_forward(kind, n, weighted, isa):
    rng = np.random.default_rng(8)
    group = learners(rng, n, rows=75, weighted=weighted, **KINDS[kind])
    one = group[0]
    which = rng.permutation(n)[: max(1, n - 2)]
    lanes = many(group, 7)
    total = 75.0 if one.weight is None else float(one.weight.sum())
    found = lanes.evaluate(which, one.X, one.y, one.weight, total)
    out = np.empty((len(which), 75, one.net._spec.out_features))
    lanes.forward(which, one.X, out)
    for k, value, outputs in zip(which, found, out):
        net = group[k].net
        wanted = net.loss_and_grad(one.X, one.y, loss=one.loss, sample_weight=one.weight)[0]
        assert_close(value, wanted, "float64", sum(net._spec.sizes), max(1, abs(wanted)))
        assert_close(outputs, net.forward(one.X), "float64", sum(net._spec.sizes))


# ------------------------------------------------------------------ who is served


def plan_of(sizes, loss="mse", rule="sgd", **more):
    net = fastbp.MLP(sizes, backend="cython", **more)
    X = np.zeros((4, sizes[0]))
    return Learner(net, X, X, RULES[rule](0.1), loss=loss).plan(8)


def test_which_plans_are_served(isa):
    small = plan_of([2, 3, 1])
    assert serves_lanes(small, 8, "auto") and serves_lanes(small, 8, True) and not serves_lanes(small, 8, False)
    large = plan_of([8, 64, 64, 4])
    assert not serves_lanes(large, 32, "auto") and serves_lanes(large, 32, True)
    assert not serves_lanes(plan_of([2, 3, 1], dropout=0.5), 8, True)
    net = fastbp.MLP([2, 3, 1], backend="reference")
    other = Learner(net, np.zeros((4, 2)), np.zeros((4, 1)), RULES["sgd"](0.1))
    assert not serves_lanes(other.plan(8, "reference"), 8, True)
    clipped = Learner(fastbp.MLP([2, 3, 1], backend="cython"), other.X, other.y, fastbp.SGD(lr=0.1, clip_norm=1.0))
    assert not serves_lanes(clipped.plan(8), 8, True)


@pytest.mark.parametrize("sizes, batch, rule, avx512, avx2", [
    ([10, 2, 1], 32, "adam", True, False), ([8, 3, 1], 8, "sgd", True, False), ([8, 3, 1], 9, "sgd", False, False),
    ([4, 3, 1], 8, "adam", True, True), ([4, 3, 1], 32, "sgd", True, False), ([4, 4, 1], 8, "sgd", False, False),
    ([2, 2, 2], 8, "sgd", False, False), ([8, 4, 4, 1], 8, "sgd", True, False), ([2, 2, 2, 1], 8, "adam", False, False),
    ([2, 2, 2, 1], 9, "sgd", False, False),
])  # fmt: skip
def test_auto_takes_lanes_where_a_group_gains_four_times(isa, sizes, batch, rule, avx512, avx2):
    plan = plan_of(sizes, rule=rule, activation="relu")
    assert serves_lanes(plan, batch, "auto") is {"avx512": avx512, "avx2": avx2}[isa]
    assert not serves_lanes(plan_of(sizes, rule=rule, activation="relu", dtype="float64"), batch, "auto")


def test_narrow_vectors_serve_none(monkeypatch):
    for name in set(ISAS) - set(WIDE):
        monkeypatch.setenv("FASTBP_ISA", name)
        assert not serves_lanes(plan_of([2, 3, 1]), 8, True)
