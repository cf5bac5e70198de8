"""`Course`: epochs in an order given, the loss as a caller wants it reported, the stopping rule within a call."""

import math
import os
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from conftest import need_numba
from test_process import IMPORTED_FROM, python, where_signals_are_served
from tolerance import assert_close

import fastbp
from fastbp import SGD, Adam
from fastbp.backends.plan import make_plan, program
from fastbp.backends.protocol import DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE, STALLED, Course
from fastbp.losses import TABLE as LOSSES
from fastbp.order import epoch_order
from fastbp.training.state import TrainingState

# sizes, rows of a batch, rows of an epoch: each family of kernels; one row left over, fewer rows than a batch has
SHAPES = {
    "tiny": ((3, 7, 2), 5, 23),
    "tiny, one row left": ((4, 8, 3), 4, 33),
    "single": ((9, 21, 6), 1, 5),
    "few": ((33, 70, 67), 7, 29),
    "narrow": ((37, 21, 3), 16, 49),
    "direct": ((17, 35, 19, 41), 40, 121),
    "one batch": ((11, 20, 5), 64, 40),
}
RULES = {
    "sgd": SGD(0.05),
    "adam": Adam(0.01, eps=0.1, weight_decay=0.01),
    "groups": Adam(0.01, eps=0.1, weight_decay=0.1, bias_decay_scale=0.0),
    "clipped": SGD(0.05, momentum=0.9, clip_norm=0.5),
    "accumulated": SGD(0.05, momentum=0.9, accumulate=3),
}


class Trainee:
    """A network's program and what goes through its calls of `train`."""

    def __init__(self, kernels, dtype, shape, rule=RULES["adam"], loss="mse", *, n_threads=None, **network):
        sizes, batch, n = shape
        rng = np.random.default_rng(n)
        net = fastbp.MLP(sizes, activation="tanh", seed=3, dtype=dtype, backend=kernels, **network)
        self.rule, self.batch, self.params, self.spec = rule, batch, net.params, net._spec
        self.X, self.y, self.n = rng.normal(size=(n, sizes[0])), rng.normal(size=(n, sizes[-1])), n
        self.row = LOSSES[loss]
        if self.row.labels:
            self.y = rng.integers(0, sizes[-1], n)
        self.weight = None
        self.state, self.partial = TrainingState(self.spec, 7), np.zeros(2)
        self.plan = make_plan(self.spec, min(batch, n), backend=kernels, loss=self.row, rule=rule, n_threads=n_threads)
        self.program = program(self.plan, self.params)
        self.epochs = []  # mean losses of those that have ended

    @property
    def steps_per_epoch(self):
        return math.ceil(self.n / self.batch)

    def train(self, steps, course=None, *, shuffle=False, rows=slice(None), stop_on_loss=True, stop_on_params=False):
        """`rows`: of the data, which are all of an epoch then."""
        state, losses = self.state, np.full(steps + 1, np.nan)
        done = self.program.train(
            self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows],
            batch_size=self.batch, steps=steps, seed=state.seed, shuffle=shuffle, count=state.count, place=state.place,
            partial=self.partial, losses=losses, stop_on_loss=stop_on_loss, stop_on_params=stop_on_params,
            course=course,
            update=state.update(self.rule, steps, self.params, accumulate=self.rule.accumulate),
        )  # fmt: skip
        self.epochs += losses[: done.epochs].tolist()
        return done

    def squares(self):
        return sum(float((w.astype(np.float64) ** 2).sum()) for w in self.spec.views(self.params) if w.ndim == 2)

    def frozen(self):
        """All that a step changes, to the bit; padding may hold anything."""
        state = self.state
        sums = [] if state.accumulated is None else [state.accumulated]
        grown = map(self.real, [self.params, *state.slots.values(), *sums])
        return [array.tobytes() for array in (*grown, state.count, state.place, self.partial)], self.epochs

    def real(self, buffer):
        return self.spec.flatten(buffer)


def orders_of(n, epochs, seed=5):
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n) for _ in range(epochs)], np.int64)


def by_steps(one, orders, factor=1.0, l2=None):
    """The same steps on the reference, by a loop in Python that takes each batch out of the data itself.

    Gives the mean loss of each epoch.
    """
    epochs, k = [], 0
    for order in orders:
        total = 0.0
        for start in range(0, one.n, one.batch):
            rows = order[start : start + one.batch]
            squares = one.squares()
            one.state.place[:] = 0
            loss = one.train(1, rows=rows).loss * factor
            if l2 is not None:
                loss += l2[k] * squares
            total, k = total + loss * len(rows), k + 1
        epochs.append(total / one.n)
    return epochs


every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_shape
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_epochs_in_a_given_order_are_those_steps(shape, rule, weighted, kernels, dtype):
    """Against a plain loop over batches: parameters, slots, and the losses as they are reported."""
    got, wanted = Trainee(kernels, dtype, shape, rule), Trainee("reference", np.float64, shape, rule)
    wanted.params[:] = wanted.spec.padded(got.real(got.params).astype(np.float64))
    if weighted:
        got.weight = wanted.weight = np.random.default_rng(1).uniform(0, 2, got.n)
    orders, steps = orders_of(got.n, 3), 3 * got.steps_per_epoch
    l2 = np.random.default_rng(2).uniform(0, 0.1, steps)
    epochs = by_steps(wanted, orders, 0.25, l2)
    done = got.train(steps, Course(orders, 0.25, l2), shuffle=weighted)  # which is not looked at
    assert done[:3] == (steps, DONE, 3) and got.state.step == steps and got.state.place.tolist() == [3, 0]
    assert got.partial.tolist() == [0, 0]
    k = steps * (sum(shape[0]) + shape[1])
    assert_close(got.epochs, epochs, dtype, k=k)
    assert_close(got.real(got.params), wanted.real(wanted.params), dtype, k=k)
    for name, slot in got.state.slots.items():
        assert_close(got.real(slot), wanted.real(wanted.state.slots[name]), dtype, k=k, what=name)


@every_shape
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_a_given_order_is_taken_as_the_network_s_own_is(shape, weighted, kernels, dtype):
    """The order that `shuffle` makes, given: the same bits. Also where a call begins and ends within an epoch."""
    one, two, three = (Trainee(kernels, dtype, shape) for _ in "abc")
    if weighted:
        one.weight = two.weight = three.weight = np.random.default_rng(1).uniform(0, 2, one.n)
    orders = np.array([epoch_order(7, epoch, one.n) for epoch in range(3)], np.int64)
    steps = 3 * one.steps_per_epoch
    one.train(steps, shuffle=True)
    two.train(steps, Course(orders), shuffle=True)
    left = steps
    while left:
        some = min(left, max(1, steps // 4))
        three.train(some, Course(orders[three.state.epoch :]))
        left -= some
    assert two.frozen() == one.frozen() == three.frozen()


@every_shape
def test_what_is_reported_changes_no_step(shape, kernels, dtype):
    """Factor and L2 are in the losses alone, to the bit; those of the whole epoch are those of its batches."""
    plain, told = Trainee(kernels, dtype, shape), Trainee(kernels, dtype, shape)
    steps = 2 * plain.steps_per_epoch
    l2 = np.random.default_rng(2).uniform(0, 0.1, steps)
    wanted = []
    for k in range(steps):
        squares = told.squares()
        wanted.append(plain.train(1).loss * 0.5 + l2[k] * squares)
        loss = told.train(1, Course(factor=0.5, l2=l2[k : k + 1])).loss
        assert_close(loss, wanted[-1], dtype, k=told.params.size)
    assert plain.frozen()[0][:-1] == told.frozen()[0][:-1]  # but for `partial`
    rows = np.diff([*range(0, plain.n, plain.batch), plain.n])
    epochs = (np.reshape(wanted, (2, -1)) * rows).sum(axis=1) / plain.n
    assert_close(told.epochs, epochs, dtype, k=plain.params.size)
    again = Trainee(kernels, dtype, shape)
    again.train(steps, Course(factor=0.5, l2=l2))
    assert again.epochs == told.epochs and again.frozen() == told.frozen()


def plainly_stalled(losses, best, tol, patience, bad):
    """scikit-learn's `_update_no_improvement_count` over losses: how many epochs there are, best and count then."""
    for k, loss in enumerate(losses, 1):
        if loss > best - tol:
            bad += 1
        else:
            bad = 0
        if loss < best:
            best = loss
        if bad > patience:
            return k, STALLED, best, bad
    return len(losses), DONE, best, bad


@every_shape
@pytest.mark.parametrize(
    "tol, patience, bad", [(1e-3, 1, 0), (0.05, 0, 0), (1.0, 2, 1), (1.0, math.inf, 3), (-1.0, 0, 0)]
)
def test_the_stopping_rule_ends_a_call_where_a_loop_over_epochs_would(shape, tol, patience, bad, kernels, dtype):
    one, two = (Trainee(kernels, dtype, shape, SGD(0.1, momentum=0.5)) for _ in "ab")
    per, orders = one.steps_per_epoch, orders_of(one.n, 8)
    for order in orders:
        two.train(per, Course(order[None], 0.5))
    k, status, best, count = plainly_stalled(two.epochs, math.inf, tol, patience, bad)
    stall = np.array([math.inf, tol, patience, bad])
    done = one.train(8 * per, Course(orders, 0.5, None, stall))
    assert done[:3] == (k * per, status, k) and one.epochs == two.epochs[:k]
    assert stall.tolist() == [best, tol, patience, count]
    assert one.state.step == k * per and one.state.place.tolist() == [k, 0] and one.partial.tolist() == [0, 0]
    three = Trainee(kernels, dtype, shape, SGD(0.1, momentum=0.5))
    three.train(k * per, Course(orders, 0.5))
    assert one.frozen() == three.frozen()
    # It goes on from there, in a call that begins within an epoch too.
    for other in (one, three):
        other.train(1, Course(orders[-1:], 0.5, None, stall if other is one else None))
    assert one.frozen() == three.frozen()


def test_the_stopping_rule_meets_each_case(kernels):
    """What the test above may not meet: a loss that is as good as the best but for the tolerance, or NaN."""
    one = Trainee(kernels, np.float64, SHAPES["narrow"], SGD(0.0))
    steps = one.steps_per_epoch
    one.train(steps)
    loss = one.epochs[0]
    for stall, wanted, status in (
        ([loss, 0.0, 0, 5], [loss, 0.0, 0, 0], DONE),  # not above the best: counted anew
        ([loss, 1e-9, 5, 5], [loss, 1e-9, 5, 6], STALLED),
        ([loss, 1e-9, 6, 5], [loss, 1e-9, 6, 6], DONE),  # as many as `patience` are not too many
        ([loss + 1, 2.0, 0, 0], [loss, 2.0, 0, 1], STALLED),  # better, by too little: remembered all the same
        ([math.nan, 0.0, 0, 5], [math.nan, 0.0, 0, 0], DONE),
    ):
        stall = np.array(stall)
        assert one.train(steps, Course(stall=stall)).status == status
        assert_close(one.epochs[-1], loss, np.float64)
        np.testing.assert_array_equal(stall, wanted)
    one.y[0] = math.nan
    stall = np.array([0.0, 0.0, 5, 3])
    assert one.train(2 * steps, Course(stall=stall), stop_on_loss=False).status == DONE
    assert math.isnan(one.epochs[-1]) and stall.tolist() == [0, 0, 5, 0]


@every_shape
def test_given_orders_and_orders_of_its_own_do_not_get_into_each_other(shape, kernels, dtype):
    """One program, calls of both kinds in turn, within an epoch and at its ends; against a new program for each."""
    kept, fresh = Trainee(kernels, dtype, shape), Trainee(kernels, dtype, shape)
    per, orders = kept.steps_per_epoch, orders_of(kept.n, 9)
    for k, (given, steps) in enumerate([(0, 1), (1, 1), (0, per), (0, 1), (1, per + 1), (0, 2 * per), (1, 1), (1, 1)]):
        for one in (kept, fresh):
            if one is fresh:
                one.program = program(one.plan, one.params)
            one.train(steps, Course(orders[k:]) if given else None, shuffle=True)
        assert kept.frozen() == fresh.frozen(), f"call {k}"
    short = slice(0, kept.n - 1)  # another number of rows, and back
    for given in (1, 0, 1, 0):
        for one in (kept, fresh):
            one.state.place[:], one.partial[:] = (4, 0), 0
            if one is fresh:
                one.program = program(one.plan, one.params)
            course = Course(orders_of(one.n - 1, 2)) if given else None
            one.train(2, course, shuffle=True, rows=short)
            one.state.place[:], one.partial[:] = (4, 0), 0
            one.train(2, None if given else Course(orders), shuffle=True)
        assert kept.frozen() == fresh.frozen()


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_labels_and_logits_are_served(loss, kernels, dtype):
    shape = ((6, 12, 5), 8, 27)
    got, wanted = Trainee(kernels, dtype, shape, loss=loss), Trainee("reference", np.float64, shape, loss=loss)
    if loss == "binary_cross_entropy":
        got.y = wanted.y = (got.y > 0).astype(float)
    wanted.params[:] = wanted.spec.padded(got.real(got.params).astype(np.float64))
    orders, l2 = orders_of(got.n, 2), np.full(8, 0.01)
    got.train(8, Course(orders, 2.0, l2))
    assert_close(got.epochs, by_steps(wanted, orders, 2.0, l2), dtype, k=8 * 31)
    assert_close(got.real(got.params), wanted.real(wanted.params), dtype, k=8 * 31)


@pytest.mark.parametrize("network", [{"dropout": 0.5}, {"bias": False}], ids=str)
def test_networks_off_the_plain_path_are_served(network, kernels, dtype):
    """Dropout is a function of step and place: the order given is in the rows alone."""
    one, two = (Trainee(kernels, dtype, SHAPES["narrow"], **network) for _ in "ab")
    orders, per = orders_of(one.n, 2), one.steps_per_epoch
    one.train(2 * per, Course(orders, 1.0, np.full(2 * per, 0.01)))
    epochs = by_steps(two, orders, 1.0, np.full(2 * per, 0.01))
    k = 2 * per * one.params.size
    assert_close(one.real(one.params), two.real(two.params), dtype, k=k)
    assert_close(one.epochs, epochs, dtype, k=k)


@every_shape
def test_a_loss_that_is_not_finite_ends_the_call_as_ever(shape, kernels, dtype):
    """`stop_on_loss` looks at the loss itself: what is reported may be infinite."""
    one = Trainee(kernels, dtype, shape)
    orders, per = orders_of(one.n, 2), one.steps_per_epoch
    one.X[orders[1, -1]] = math.nan  # all of the first epoch's steps are spoilt from that row's batch on
    at = int(np.flatnonzero(orders[0] == orders[1, -1])[0]) // one.batch
    stall = np.array([math.inf, 0.0, 0.0, 0.0])
    done = one.train(2 * per, Course(orders, 0.5, np.ones(2 * per), stall))
    assert done[:3] == (at, LOSS_NOT_FINITE, 0) and math.isnan(done.loss)
    assert one.state.step == at and one.state.place.tolist() == [0, at * one.batch]
    assert stall.tolist() == [math.inf, 0, 0, 0]
    two = Trainee(kernels, dtype, shape)
    done = two.train(2 * per, Course(l2=np.full(2 * per, math.inf)))
    assert done[:3] == (2 * per, DONE, 2) and done.loss == math.inf


def test_parameters_that_overflow_end_the_call_before_the_stopping_rule_does(kernels, dtype):
    one = Trainee(kernels, dtype, SHAPES["direct"], SGD(float(np.finfo(dtype).max)))
    per = one.steps_per_epoch
    stall = np.array([-math.inf, 0.0, -1.0, 0.0])  # the first epoch is one too many
    one.train(per - 1, stop_on_loss=False)
    done = one.train(1, Course(stall=stall), stop_on_loss=False, stop_on_params=True)
    assert done[:3] == (1, PARAMS_NOT_FINITE, 1) and stall[3] == (0 if math.isnan(one.epochs[0]) else 1)


def test_any_number_of_threads_gives_the_same_bits(isa, dtype, monkeypatch):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    told = []
    for n_threads in (1, 2, 3):
        for rule in (SGD(0.05), RULES["clipped"]):
            one = Trainee("cython", dtype, ((70, 90, 40), 16, 100), rule, n_threads=n_threads)
            one.train(21, Course(orders_of(100, 3), 0.5, np.full(21, 0.1)))
            told.append(one.frozen())
    assert told[0] == told[2] == told[4] and told[1] == told[3] == told[5] and told[0] != told[1]


def test_padding_is_in_no_sum(kernels, dtype):
    """Padding of the parameters may hold anything."""
    for shape in SHAPES.values():
        one, two = Trainee(kernels, dtype, shape), Trainee(kernels, dtype, shape)
        real = one.real(one.params)
        one.params[:] = math.nan
        for view, values in zip(one.spec.views(one.params), two.spec.views(two.params)):
            view[...] = values
        np.testing.assert_array_equal(one.real(one.params), real)
        for each in (one, two):
            each.train(each.steps_per_epoch, Course(l2=np.ones(each.steps_per_epoch)))
        assert one.epochs == two.epochs and math.isfinite(one.epochs[0])


def test_wherever_a_signal_may_be_served_all_is_at_one_step(backend):
    """Also the stopping rule's numbers, which belong to the epoch's end."""
    net = Trainee(backend, np.float64, ((2, 3, 1), 2, 5), SGD(0.1))
    orders, stall, l2 = orders_of(5, 3), np.array([math.inf, 0.0, 9.0, 0.0]), np.full(9, 0.1)

    def state():
        return (*net.frozen()[0], stall.tobytes())

    twin = Trainee(backend, np.float64, ((2, 3, 1), 2, 5), SGD(0.1))
    rule = stall.copy()
    finished = [(*twin.frozen()[0], rule.tobytes())]
    for k in range(9):
        twin.train(1, Course(orders[k // 3 :], 0.5, l2, rule))
        finished.append((*twin.frozen()[0], rule.tobytes()))
    seen = set()
    where_signals_are_served(lambda: seen.add(state()), lambda: net.train(9, Course(orders, 0.5, l2, stall)))
    assert seen <= set(finished) and state() == finished[-1]
    if backend == "reference":
        assert seen >= set(finished)


def test_rows_of_a_group_have_decay_of_their_own(kernels, dtype):
    """Adam as scikit-learn writes it, by scalars: decay of weights alone, another for the last batch, root 1."""
    one, two = (Trainee(kernels, dtype, SHAPES["direct"], RULES["groups"]) for _ in "ab")
    per, orders = one.steps_per_epoch, orders_of(one.n, 2)
    steps = 2 * per
    names, update = one.rule.row.scalars, one.state.update(one.rule, steps, one.params)
    decay = 1.0 / np.resize([*[one.batch] * (per - 1), one.n - one.batch * (per - 1)], steps)
    groups = [[s.copy() for s in group] for group in update.scalars]
    for k, group in enumerate(groups):
        group[names.index("weight_decay")] = decay if k % 2 == 0 else np.broadcast_to(0.0, steps)
    done = one.program.train(
        one.X, one.y, None, batch_size=one.batch, steps=steps, seed=0, shuffle=False, count=one.state.count,
        place=one.state.place, partial=one.partial, losses=np.zeros(3), stop_on_loss=True, stop_on_params=False,
        update=update._replace(scalars=groups), course=Course(orders),
    )  # fmt: skip
    assert done[:3] == (steps, DONE, 2)
    for k in range(steps):
        start = k % per * two.batch
        rows = orders[k // per][start : start + two.batch]
        two.state.place[:] = 0
        two.rule = replace(RULES["groups"], weight_decay=float(decay[k]))
        two.train(1, rows=rows)
    assert_close(one.real(one.params), two.real(two.params), dtype, k=steps * one.params.size)


ON_NUMBA = """
    import os
    import numpy as np
    import test_course as tests
    from fastbp.backends.numba import program as jit

    os.environ.pop("PYTEST_CURRENT_TEST", None), os.environ.pop("FASTBP_TEST_ERRORS", None)
    for k, name in enumerate(tests.SHAPES):
        dtype, shape = np.dtype(("f4", "f8")[k % 2]), tests.SHAPES[name]
        for staged in (1 << 20, 60):   # data as they lie, and a few batches of them at a time
            jit._STAGED_ELEMENTS = staged
            tests.test_epochs_in_a_given_order_are_those_steps(shape, tests.RULES["adam"], k % 3 == 0, "numba", dtype)
        if name in ("tiny", "direct"):   # `columns`, `tiles`
            tests.test_given_orders_and_orders_of_its_own_do_not_get_into_each_other(shape, "numba", dtype)
            tests.test_a_given_order_is_taken_as_the_network_s_own_is(shape, False, "numba", dtype)
            tests.test_what_is_reported_changes_no_step(shape, "numba", dtype)
            tests.test_a_loss_that_is_not_finite_ends_the_call_as_ever(shape, "numba", dtype)
            tests.test_the_stopping_rule_ends_a_call_where_a_loop_over_epochs_would(shape, 0.05, 0, 0, "numba", dtype)
    tests.test_the_stopping_rule_meets_each_case("numba")
    tests.test_padding_is_in_no_sum("numba", np.dtype("f8"))
    print("all")
"""


def test_with_numba_disabled_the_same_text_runs_in_python():
    """Where an index is past the end, shapes do not fit; and of compiled cases there are few."""
    need_numba()
    paths = os.pathsep.join((IMPORTED_FROM, os.path.dirname(__file__)))
    assert python(textwrap.dedent(ON_NUMBA), NUMBA_DISABLE_JIT="1", PYTHONPATH=paths, timeout=240) == "all\n"
