"""Numbers from outside: the original BP demo, Mazur's worked example, the order of rows."""

from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_close

import fastbp
import fastbp.order
from fastbp import backends

# ------------------------------------------------------------------ the original BP demo

DEMO_W1 = [[-0.8113182, 1.4845988, 0.06532937], [-2.4427042, 0.0992484, 0.5912243]]
DEMO_W2 = [[-0.8113182], [1.4845988], [0.06532937]]
DEMO_LOSS = ["5.13118", "0.429111", "0.409789", "0.399923", "0.394146", "0.390597"]  # after 1, 501, ... updates
DEMO_FINAL = (
    [[-0.7000663, 0.9136317, 0.0895357], [-2.3402493, -0.1464127, 0.5882305]],
    [[-0.0602427], [0.9195619], [-0.0682071]],
)


def demo(backend, dtype):
    X = np.random.RandomState(23455).rand(32, 2)
    net = fastbp.MLP(
        (2, 3, 1), activation="identity", bias=False, dtype=dtype, init=[DEMO_W1, DEMO_W2], backend=backend
    )  # fmt: skip
    return net, X, (X.sum(axis=1) < 1).astype(int)


def demo_fit(net, X, y, **length):
    return net.fit(X, y, optimizer=fastbp.SGD(lr=0.001), batch_size=8, shuffle=False, **length)


def test_the_bp_demo_prints_its_numbers(kernels, dtype):
    net, X, y = demo(kernels, dtype)
    assert f"{net.evaluate(X, y, loss='mse'):g}" == "5.23348"
    printed = []
    for steps in (1, 500, 500, 500, 500, 500):
        demo_fit(net, X, y, steps=steps)
        printed.append(f"{net.evaluate(X, y, loss='mse'):g}")
    assert printed == DEMO_LOSS
    demo_fit(net, X, y, steps=3000 - net.step)
    for weight, final in zip(net.weights, DEMO_FINAL):  # which has the roundings of 3000 steps in float32
        assert_close(weight, final, np.float32, k=4 if dtype == np.float32 else 3000)


def test_the_bp_demo_in_one_call_gives_the_same_weights(kernels):
    net, X, y = demo(kernels, np.float32)
    history = demo_fit(net, X, y, steps=3000)
    assert (history.n_steps, len(history.loss)) == (3000, 750)
    for weight, final in zip(net.weights, DEMO_FINAL):
        assert_close(weight, final, np.float32, k=4)


# ------------------------------------------------------------------ Mazur's worked example

MAZUR_X, MAZUR_T = [[0.05, 0.10]], [[0.01, 0.99]]
MAZUR_INIT = [([[0.15, 0.25], [0.20, 0.30]], [0.35, 0.35]), ([[0.40, 0.50], [0.45, 0.55]], [0.60, 0.60])]
MAZUR_AFTER_1 = [  # w1 .. w8; input i to hidden j is row i, column j
    [[0.149780716, 0.249751144], [0.199561432, 0.299502287]],
    [[0.358916480, 0.511301270], [0.408666186, 0.561370121]],
]
MAZUR_ERROR, MAZUR_ERROR_AFTER_1 = 0.298371109, 0.291027774
MAZUR_OUTPUT_AFTER_10000 = [[0.015913620, 0.984064274]]
# The numbers widely copied: their hidden gradient goes through output weights that are updated already.
COPIED_ERROR_AFTER_1, COPIED_OUTPUT = 0.291027924, [[0.015912196, 0.984065734]]
HALF_DIGIT = 0.5e-9  # the numbers are printed to nine decimals


def mazur(backend, dtype=np.float64):
    return fastbp.MLP(
        (2, 2, 2), activation="sigmoid", output_activation="sigmoid", init=MAZUR_INIT, dtype=dtype, backend=backend
    )  # fmt: skip


def mazur_step(net):
    """One step of half squared error at lr 0.5 with the biases held."""
    a = net.forward(MAZUR_X)
    net.backward(a - np.array(MAZUR_T))
    for gradient in net.grad_biases:
        gradient[...] = 0
    net.update(fastbp.SGD(lr=0.5))


def mazur_error(net):
    return net.evaluate(MAZUR_X, MAZUR_T, loss="half_squared_error")


def test_mazurs_first_step_has_its_true_numbers(kernels):
    net = mazur(kernels)
    assert abs(mazur_error(net) - MAZUR_ERROR) <= HALF_DIGIT
    mazur_step(net)
    for weight, wanted in zip(net.weights, MAZUR_AFTER_1):
        assert np.abs(weight - wanted).max() <= HALF_DIGIT
    assert [bias.tolist() for bias in net.biases] == [[0.35, 0.35], [0.60, 0.60]]
    assert abs(mazur_error(net) - MAZUR_ERROR_AFTER_1) <= HALF_DIGIT
    assert abs(mazur_error(net) - COPIED_ERROR_AFTER_1) > 100 * HALF_DIGIT


def test_mazurs_last_step_has_its_true_numbers(kernels):
    net = mazur(kernels)
    for _ in range(10_000):
        mazur_step(net)
    assert np.abs(net.predict(MAZUR_X) - MAZUR_OUTPUT_AFTER_10000).max() <= HALF_DIGIT
    assert np.abs(net.predict(MAZUR_X) - COPIED_OUTPUT).min() > 1000 * HALF_DIGIT


def test_mazurs_first_step_in_float32(kernels):
    net = mazur(kernels, np.float32)
    mazur_step(net)
    for weight, wanted in zip(net.weights, MAZUR_AFTER_1):
        assert_close(weight, wanted, np.float32)


@pytest.mark.parametrize("path", ["fit", "train_step", "backward_update", "update"])
def test_the_hidden_gradient_goes_through_the_old_output_weights(path, kernels):
    """All of Mazur's network in one step, biases too: the hidden weights move as his do."""
    net, rule = mazur(kernels), fastbp.SGD(lr=0.5)
    if path in ("fit", "train_step"):
        more = {"steps": 1} if path == "fit" else {}
        getattr(net, path)(MAZUR_X, MAZUR_T, loss="half_squared_error", optimizer=rule, **more)
    else:
        delta = net.forward(MAZUR_X) - np.array(MAZUR_T)
        if path == "update":
            net.backward(delta)
            net.update(rule)
        else:
            net.backward_update(delta, rule)
    for weight, wanted in zip(net.weights, MAZUR_AFTER_1):
        assert np.abs(weight - wanted).max() <= HALF_DIGIT


# ------------------------------------------------------------------ the order of rows


PHILOX = [  # key, counter, words: the known answers of Salmon et al.'s Random123, philox4x32-10
    (0, [0] * 4, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (2**64 - 1, [2**32 - 1] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (0x299F31D0A4093822, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]  # fmt: skip


def philox4x32_10(key, counter):
    """The generator's definition, in Python's integers."""
    keys, (a, b, c, d) = [key % 2**32, key // 2**32], counter
    for _ in range(10):
        first, second = divmod(0xD2511F53 * a, 2**32), divmod(0xCD9E8D57 * c, 2**32)
        a, b, c, d = second[0] ^ b ^ keys[0], second[1], first[0] ^ d ^ keys[1], first[1]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return [a, b, c, d]


@pytest.mark.parametrize("key, counter, words", PHILOX)
def test_the_generator_has_its_published_words(key, counter, words):
    assert philox4x32_10(key, counter) == words
    assert [int(word) for word in fastbp.order.philox4x32(key, counter)] == words


def draws(seed, epoch, n):
    """Numbers from 0 to 1, as fractions: a word of 32 bits each, or of 64 where there are more than 65,536 rows."""
    block, bits, left = 0, 32 if n <= 65536 else 64, []
    while True:
        if not left:
            left = philox4x32_10(seed, [block, epoch % 2**32, epoch // 2**32, 2**32 - 1])
            block += 1
        yield (left.pop(0) if bits == 32 else left.pop(0) + 2**32 * left.pop(0)), bits


@cache
def shuffled(seed, epoch, n):
    """Fisher-Yates as `fastbp.order` describes it."""
    rows, numbers = list(range(n)), draws(seed, epoch, n)
    for i in range(n - 1, 0, -1):
        word, bits = next(numbers)
        j = word * (i + 1) // 2**bits
        rows[i], rows[j] = rows[j], rows[i]
    return np.array(rows)


SEEDS = [0, 1, 42, 2**32, 2**63 + 5, 2**64 - 1]
ORDERS = [  # of `shuffled`, written down: these bits are what a seed promises
    (0, 0, [3, 11, 6, 8, 7, 1, 5, 4, 2, 0, 10, 9]),
    (1, 0, [5, 6, 8, 1, 0, 4, 9, 3, 10, 2, 7, 11]),
    (0, 1, [4, 1, 2, 10, 11, 3, 6, 5, 9, 7, 0, 8]),
    (2**32, 0, [7, 8, 5, 10, 1, 4, 6, 0, 11, 9, 3, 2]),
    (0, 2**32, [6, 8, 1, 4, 3, 11, 5, 7, 10, 2, 9, 0]),
    (2**64 - 1, 2**63 - 1, [10, 9, 4, 6, 1, 8, 2, 11, 7, 0, 3, 5]),
]
MAKERS = [fastbp.order.epoch_order, pytest.param(backends.epoch_order, id="compiled")]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed, epoch, rows", ORDERS)
def test_orders_that_seeds_promise(seed, epoch, rows, make):
    assert make(seed, epoch, len(rows)).tolist() == shuffled(seed, epoch, len(rows)).tolist() == rows


@pytest.mark.parametrize("make", MAKERS)
@given(st.sampled_from(SEEDS) | st.integers(0, 2**64 - 1), st.sampled_from([2**32 - 1, 2**32]) | st.integers(0, 2**63),
       st.integers(0, 200))  # fmt: skip
def test_the_order_is_fisher_yates_over_philox(make, seed, epoch, n):
    rows = make(seed, epoch, n)
    assert rows.tolist() == shuffled(seed, epoch, n).tolist()
    assert sorted(rows) == list(range(n))


PAIRS = [((k * 0x9E3779B97F4A7C15) % 2**64, k**9) for k in range(17)]  # of seeds and epochs, on both sides of 2**32


@pytest.mark.parametrize("sizes", [range(1, 71), range(127, 132), [257, 1000, 65_536, 65_537]], ids=str)
def test_orders_of_many_seeds_and_epochs_are_those_of_each(sizes, isa):
    """A pair's order depends on none beside it; each number of rows ends somewhere else in the vectors."""
    for n in sizes:
        seeds, epochs = np.array(PAIRS[: 17 if n < 1000 else 2], np.uint64).T.copy()
        wanted = np.array([shuffled(seed, epoch, n) for seed, epoch in PAIRS[: len(seeds)]])
        for count in range(1, len(seeds) + 1):
            orders = backends.engine().epoch_orders(isa, seeds[:count], epochs[:count], n)
            assert orders.dtype == np.uint32 and np.array_equal(orders, wanted[:count]), (n, count)
    assert backends.engine().epoch_orders(isa, seeds, epochs, 0).shape == (len(seeds), 0)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("n", [65_535, 65_536, 65_537, 65_538])
def test_above_65536_rows_a_draw_has_64_bits(n, make):
    seed, epoch = 2**40 + 3, 2**33 + 1
    rows = make(seed, epoch, n)
    assert np.array_equal(rows, shuffled(seed, epoch, n))
    assert np.array_equal(np.sort(rows), np.arange(n))


def chi_square(counts):
    """How far counts lie from the same for all, in standard deviations of chi-square (normal for many cells)."""
    expected, cells = counts.sum() / counts.size, counts.size
    return (((counts - expected) ** 2 / expected).sum() - (cells - 1)) / (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("kind", ["epochs", "late epochs", "seeds", "high seeds"])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_permutation_is_as_likely(n, kind):
    """Alone, and beside that of the next epoch or seed: a chi-square with far more than ten draws a cell."""
    number = {p: k for k, p in enumerate(permutations(range(n)))}
    drawn = 20 * len(number) ** 2 if n < 5 else 10_000
    first = {"epochs": 0, "late epochs": 2**32 - drawn // 2, "seeds": 0, "high seeds": 2**63 - drawn // 2}[kind]
    keys = range(first, first + drawn)
    orders = [number[tuple(backends.epoch_order(*((7, k) if "epochs" in kind else (k, 7)), n).tolist())] for k in keys]
    assert abs(chi_square(np.bincount(orders, minlength=len(number)))) < 4
    if n < 5:
        pairs = np.array(orders[:-1]) * len(number) + orders[1:]
        assert abs(chi_square(np.bincount(pairs, minlength=len(number) ** 2))) < 4


@pytest.mark.parametrize("n", [10, 100])
def test_every_row_is_everywhere_as_often(n):
    counts = np.zeros((n, n), int)
    for epoch in range(100 * n):
        counts[np.arange(n), backends.epoch_order(3, epoch, n)] += 1
    assert abs(chi_square(counts)) < 4  # sums of rows and columns are fixed: it varies a little less


def test_the_order_and_dropout_share_no_counter(monkeypatch):
    asked, philox4x32 = [], fastbp.order.philox4x32
    monkeypatch.setattr(fastbp.order, "philox4x32", lambda key, at: asked.append(at) or philox4x32(key, at))
    fastbp.order.epoch_order(1, 2, 3)
    for layer in (0, 1, 65_534):
        for step in (0, 2**32 - 1, 2**48 - 1):
            fastbp.order.dropout_scales(1, step, layer, 1, 1, 0.5)
    (_, _, _, of_the_order), *of_dropout = asked
    assert of_the_order == 2**32 - 1 and all(last < of_the_order for _, _, _, last in of_dropout)


@given(st.sampled_from(SEEDS) | st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 3))
def test_generators_are_those_of_a_key(seed, epoch, use):
    words = np.random.Philox(key=seed, counter=[0, 0, epoch, use]).random_raw(9)
    assert np.array_equal(fastbp.order.philox(seed, epoch, use).random_raw(9), words)


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(fastbp.order.epoch_order(seed, epoch, 50)) for seed in SEEDS for epoch in range(20)}
    assert len(orders) == 20 * len(SEEDS)


def order_problem(n, backend, dtype, seed=0):
    """A network whose bits tell the order in which it saw its rows."""
    rng = np.random.default_rng(n)
    net = fastbp.MLP((3, 5, 2), activation="tanh", dtype=dtype, init="glorot_normal", seed=seed, backend=backend)
    return net, rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 31, 32, 33, 64, 257, 1000])
def test_shuffling_is_gathering_the_rows_beforehand(n, batch_size, kernels, dtype):
    epochs, seed = 3, 2**64 - 1 - n
    net, X, t, weight = order_problem(n, kernels, dtype, seed)
    peer = order_problem(n, kernels, dtype, seed)[0]
    net.fit(X, t, batch_size=batch_size, epochs=epochs, sample_weight=weight, optimizer=fastbp.SGD(0.01, 0.9))
    for epoch in range(epochs):
        order = shuffled(seed, epoch, n)
        peer.fit(
            X[order], t[order], batch_size=batch_size, epochs=1, sample_weight=weight[order], shuffle=False,
            optimizer=fastbp.SGD(0.01, 0.9),
        )  # fmt: skip
    assert net.flatten().tobytes() == peer.flatten().tobytes()
    if n > 2 and batch_size < n:
        other = order_problem(n, kernels, dtype, seed)[0]
        other.fit(X, t, batch_size=batch_size, epochs=epochs, sample_weight=weight, optimizer=fastbp.SGD(0.01, 0.9),
                  seed=seed - 1)  # fmt: skip
        assert net.flatten().tobytes() != other.flatten().tobytes(), "the bits do not tell the order"


@pytest.mark.parametrize("sizes", [(3, 5, 2), (3, 12, 2)], ids=["tiny", "wide"])
def test_rows_are_shuffled_anew_where_their_number_changes(sizes, kernels):
    """An order of 13 rows is none of 10, of the same seed and epoch though it is."""
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(13, 3)), rng.normal(size=(13, 2))
    net, peer = (fastbp.MLP(sizes, seed=5, dtype=np.float64, backend=kernels) for _ in range(2))
    for n in (10, 13, 5, 12):
        order = shuffled(5, 0, n)
        for one, rows, shuffle in ((net, slice(n), True), (peer, order, False)):
            one.reset_training()  # from epoch 0 on
            one.fit(X[rows], t[rows], batch_size=4, epochs=1, shuffle=shuffle)
        assert net.flatten().tobytes() == peer.flatten().tobytes(), n


def test_shuffled_labels_go_with_their_rows(kernels, dtype):
    n, seed = 100, 7
    rng = np.random.default_rng(0)
    X, labels, order = rng.normal(size=(n, 3)), rng.integers(0, 4, n), shuffled(seed, 0, n)
    nets = [fastbp.MLP((3, 4), dtype=dtype, seed=seed, backend=kernels) for _ in range(2)]
    options = {"loss": "softmax_cross_entropy", "batch_size": 8, "epochs": 1, "optimizer": fastbp.SGD(0.1)}
    nets[0].fit(X, labels, **options)
    nets[1].fit(X[order], labels[order], shuffle=False, **options)
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


def rows_seen(net, n, seeds):
    """The row that each step of one row sees, the seed of the order set anew for each step."""
    X, t = np.ones((n, 1)), np.arange(n, dtype=float)
    seen = []
    for seed in seeds:  # w <- w - (w - t) = t: the weight names the row
        net.fit(X, t, loss="half_squared_error", optimizer=fastbp.SGD(1.0), batch_size=1, steps=1, seed=seed)
        seen.append(int(net.weights[0][0, 0]))
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_of_a_fit_replaces_the_networks(seed, kernels):
    n, other = 40, 99
    net = fastbp.MLP((1, 1), bias=False, init=[[[0.0]]], seed=123, backend=kernels)
    seen = rows_seen(net, n, [other, seed] * (n // 2))
    orders = shuffled(other, 0, n), shuffled(seed, 0, n)
    assert seen == [orders[k % 2][k] for k in range(n)]
    assert rows_seen(net, n, [None] * n) == shuffled(seed, 1, n).tolist()


def test_the_order_of_many_rows(kernels):
    """Draws of 64 bits."""
    n = 65_537
    net, X, t, _ = order_problem(n, kernels, np.float32, seed=3)
    peer = order_problem(n, kernels, np.float32, seed=3)[0]
    rows = shuffled(3, 0, n)
    net.fit(X, t, batch_size=8192, epochs=1)
    peer.fit(X[rows], t[rows], batch_size=8192, epochs=1, shuffle=False)
    assert net.flatten().tobytes() == peer.flatten().tobytes()


@pytest.mark.parametrize("epoch", [2**31 - 1, 2**32, 2**53 + 1])
def test_the_order_of_a_late_epoch(epoch, kernels):
    n = 40
    net, X, t, _ = order_problem(n, kernels, np.float64, seed=11)
    peer = order_problem(n, kernels, np.float64, seed=11)[0]
    net._state.place[0] = epoch
    order = shuffled(11, epoch, n)
    net.fit(X, t, batch_size=3, epochs=1)
    peer.fit(X[order], t[order], batch_size=3, epochs=1, shuffle=False)
    assert net.epoch == epoch + 1
    assert net.flatten().tobytes() == peer.flatten().tobytes()
