"""The weights that a network starts with: their distribution, and whose arrays they are."""

import numpy as np
import pytest
from tolerance import assert_close

import fastbp
from fastbp import initializers

FANS = {"square": (300, 300), "tall": (600, 150), "wide": (150, 600)}
VARIANCE = {  # of (in_features, out_features), from the papers
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
    "he": lambda n_in, n_out: 2 / n_in,
    "lecun": lambda n_in, n_out: 1 / n_in,
}
SCHEMES = {"torch", "sklearn"}  # whose biases do not start at 0


def first_weight(fan, init, **options):
    return fastbp.MLP(FANS[fan], init=init, **{"dtype": np.float64, "seed": 8} | options).weights[0]


def test_the_table_holds_what_is_promised():
    drawn = {f"{scale}_{kind}" for scale in VARIANCE for kind in ("uniform", "normal")}
    assert set(initializers.TABLE) == drawn | {"orthogonal", "zeros"} | SCHEMES
    assert set(initializers.BIASES) == {"zeros", "uniform"}


@pytest.mark.parametrize("fan", FANS)
@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("scale", VARIANCE)
def test_weights_have_the_mean_variance_and_shape_of_their_distribution(scale, kind, fan):
    """Five standard errors of 90,000 draws: a variance off by 2 % fails, a chance failure needs a million seeds."""
    weight = first_weight(fan, f"{scale}_{kind}")
    variance = VARIANCE[scale](*FANS[fan])
    standard, n = weight.ravel() / np.sqrt(variance), weight.size
    fourth = 9 / 5 if kind == "uniform" else 3  # kurtosis
    assert abs(standard.mean()) < 5 / np.sqrt(n)
    assert abs(standard.var() - 1) < 5 * np.sqrt((fourth - 1) / n)
    assert abs((standard**4).mean() - fourth) < 0.15
    if kind == "uniform":
        bound = np.sqrt(3)
        assert bound * 0.999 < standard.max() <= bound and -bound <= standard.min() < -bound * 0.999
    else:
        assert 3.5 < abs(standard).max() < 7
        assert 0.67 < (abs(standard) < 1).mean() < 0.695


@pytest.mark.parametrize("scale", VARIANCE)
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_rows_columns_and_layers_are_drawn_independently(scale, kind):
    net = fastbp.MLP((200, 200, 200), init=f"{scale}_{kind}", dtype=np.float64, seed=1)
    first, second = (weight / weight.std() for weight in net.weights)
    for a, b in ((first[:-1], first[1:]), (first[:, :-1], first[:, 1:]), (first, second), (first, first.T)):
        off_diagonal = ~np.eye(*a.shape, dtype=bool)
        assert abs((a * b)[off_diagonal].mean()) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("n_in, n_out", [(90, 90), (180, 45), (45, 180), (1, 7), (7, 1), (1, 1), (33, 32)])
def test_orthogonal_weights_have_orthonormal_rows_or_columns_whichever_are_fewer(n_in, n_out):
    weight = fastbp.MLP((n_in, n_out), init="orthogonal", dtype=np.float64, seed=8).weights[0]
    product = weight.T @ weight if n_in >= n_out else weight @ weight.T
    assert_close(product, np.eye(min(n_in, n_out)), np.float64, k=max(n_in, n_out))


def test_orthogonal_weights_are_spread_evenly_over_the_orthogonal_matrices():
    """Without the signs of R fixed, QR leaves the trace off; Haar's has mean 0 and variance 1."""
    traces = [np.trace(initializers.TABLE["orthogonal"](np.random.default_rng(k), 4, 4)) for k in range(2000)]
    assert abs(np.mean(traces)) < 5 / np.sqrt(2000) and abs(np.var(traces) - 1) < 0.25
    ones = [initializers.TABLE["orthogonal"](np.random.default_rng(k), 1, 1)[0, 0] for k in range(200)]
    assert 60 < ones.count(1.0) < 140 and set(ones) == {1.0, -1.0}


def test_zeros_are_zeros(backend, dtype):
    net = fastbp.MLP((5, 4, 3), init="zeros", dtype=dtype, backend=backend)
    assert not net.flatten().any()
    assert not np.signbit(net.flatten()).any()


@pytest.mark.parametrize("init", sorted(set(initializers.TABLE) - SCHEMES))
def test_biases_start_at_zero_whatever_the_weights(init, dtype):
    net = fastbp.MLP((9, 8, 7), init=init, dtype=dtype, seed=1)
    assert [bias.shape for bias in net.biases] == [(8,), (7,)]
    assert not any(bias.any() for bias in net.biases)
    assert init == "zeros" or all(weight.any() for weight in net.weights)


@pytest.mark.parametrize("init", initializers.TABLE)
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_narrower_dtype_is_the_same_draw_rounded(init, kind):
    wide = fastbp.MLP((9, 8, 7), init=init, dtype=np.float64, seed=1)
    narrow = fastbp.MLP((9, 8, 7), init=init, dtype=kind, seed=1)
    assert narrow.flatten().tobytes() == wide.flatten().astype(kind).tobytes()


@pytest.mark.parametrize("init", sorted(set(initializers.TABLE) - {"zeros"}))
def test_the_seed_alone_decides_the_draw(init):
    def draw(**options):
        return fastbp.MLP((9, 8, 7), **{"init": init, "seed": 1} | options).flatten().tobytes()

    assert draw() == draw() == draw(activation="tanh", backend="reference") == draw(seed=np.uint64(1))
    assert len({draw(seed=seed) for seed in (1, 2, 2**32 + 1, 2**63 + 1)}) == 4


def test_the_draw_of_initial_weights_is_not_that_of_validation_rows():
    """One generator serves both, told apart by its counter."""
    drawn = fastbp.MLP((10, 10), init=lambda rng, *shape: rng.random(shape), seed=3, dtype=float).flatten()[:100]
    words = np.random.Philox(key=3, counter=[0, 0, 0, 2]).random_raw(100)
    assert np.isin((np.random.Philox(key=3, counter=[0, 0, 0, 1]).random_raw(100) >> 11) / 2**53, drawn).all()
    assert not np.isin((words >> 11) / 2**53, drawn).any()


def test_bias_false_draws_the_same_weights():
    with_bias, without = (fastbp.MLP((9, 8, 7), bias=bias, seed=1) for bias in (True, False))
    for one, other in zip(with_bias.weights, without.weights):
        assert one.tobytes() == other.tobytes()


# ------------------------------------------------------------------ biases

BOUNDS = {  # init, bias_init, activation: of weights and biases, by (in_features, out_features)
    "torch": ("torch", None, "relu", lambda n_in, n_out: n_in**-0.5, lambda n_in, n_out: n_in**-0.5),
    "scikit-learn": ("sklearn", None, "tanh", lambda n_in, n_out: (6 / (n_in + n_out)) ** 0.5,
                     lambda n_in, n_out: (6 / (n_in + n_out)) ** 0.5),
    "scikit-learn, logistic": ("sklearn", None, "logistic", lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5,
                               lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5),
    "uniform": ("glorot_uniform", "uniform", "relu", lambda n_in, n_out: (6 / (n_in + n_out)) ** 0.5,
                lambda n_in, n_out: n_in**-0.5),
    "scikit-learn's weights alone": (
        "sklearn", "uniform", "sigmoid", lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5,
        lambda n_in, n_out: n_in**-0.5),
}  # fmt: skip


def is_uniform(values, bound):
    """Five standard errors of mean and variance, and the bound nearly reached."""
    standard, n = values.ravel() / bound * np.sqrt(3), values.size
    assert n >= 1000 and abs(standard.mean()) < 5 / np.sqrt(n) and abs(standard.var() - 1) < 5 * np.sqrt(0.8 / n)
    assert bound * 0.98 < abs(values).max() <= bound


@pytest.mark.parametrize("what", BOUNDS)
def test_weights_and_biases_lie_within_the_bounds_of_their_scheme(what):
    init, bias_init, activation, of_weights, of_biases = BOUNDS[what]
    sizes = (30, 2000, 1500)
    net = fastbp.MLP(sizes, init=init, bias_init=bias_init, activation=activation, dtype=np.float64, seed=1)
    for weight, bias in zip(net.weights, net.biases):
        is_uniform(weight, of_weights(*weight.shape))
        is_uniform(bias, of_biases(*weight.shape))
    assert len(np.unique([*net.biases[0], *net.biases[1]])) == 3500


def test_a_sigmoid_counts_where_it_is_hidden():
    """scikit-learn has one activation for all hidden layers and draws the output's weights by it, too."""

    def widest(**options):
        net = fastbp.MLP((400, 400, 400, 400), init="sklearn", seed=1, dtype=np.float64, **options)
        return [round(float(abs(weight).max()) / (6 / 800) ** 0.5, 2) for weight in net.weights]

    low = round(3**-0.5, 2)
    assert widest(activation="sigmoid") == [low, low, low]
    assert widest(activation=["sigmoid", "relu"]) == [low, 1, 1]
    assert widest(activation=["relu", "sigmoid"]) == [1, low, low]
    assert widest(output_activation="sigmoid") == [1, 1, 1]
    assert fastbp.MLP((400, 400), init="sklearn", output_activation="sigmoid", seed=1).weights[0].max() > 0.08


def assert_drawn_alike(init, theirs):
    """The weight and bias of a layer of 50 to 4000 that another library drew; both nearly reach their bounds."""
    net = fastbp.MLP((50, 4000, 1), init=init, seed=1, dtype=np.float64)
    for ours, their in zip((net.weights[0], net.biases[0]), theirs):
        assert abs(ours).max() == pytest.approx(abs(their).max(), rel=0.01)
        assert ours.std() == pytest.approx(their.std(), rel=0.05)


def test_sklearn_draws_as_scikit_learn_does():
    peer = pytest.importorskip("sklearn.neural_network").MLPClassifier(
        (4000,), learning_rate_init=1e-12, max_iter=1, random_state=1
    )
    with pytest.warns(match="Maximum iterations"):
        peer.fit(np.ones((4, 50)), [0, 1, 0, 1])
    assert_drawn_alike("sklearn", [peer.coefs_[0], peer.intercepts_[0]])


def test_torch_draws_as_torch_does(peers):
    linear = peers.torch.nn.Linear(50, 4000)
    assert_drawn_alike("torch", [linear.weight.detach().numpy(), linear.bias.detach().numpy()])


def test_weights_do_not_depend_on_how_biases_start():
    for init in initializers.TABLE:
        nets = [fastbp.MLP((9, 8, 7), init=init, bias_init=b, seed=1)
                for b in (None, "zeros", "uniform", 0.5, lambda rng, n_in, n_out: rng.normal(size=n_out))]  # fmt: skip
        without = fastbp.MLP((9, 8, 7), init=init, bias=False, seed=1)
        assert len({tuple(w.tobytes() for w in net.weights) for net in (*nets, without)}) == 1
        kinds = len({tuple(bias.tobytes() for bias in net.biases) for net in nets})
        assert kinds == 4 + (init == "sklearn")  # None is "zeros" to most, "uniform" to torch's
    drawn, words = [], np.random.Philox(key=1, counter=[0, 0, 0, 3]).random_raw(8)
    fastbp.MLP((9, 8), bias_init=lambda rng, n_in, n_out: drawn.append(rng.random(n_out)) or drawn[0], seed=1)
    assert np.array_equal(drawn[0], (words >> 11) / 2**53)  # a stream of its own


@pytest.mark.parametrize("init", ["torch", "sklearn", "he_normal", lambda rng, n_in, n_out: (W1, B1)[: 2 - n_in % 2]])
def test_biases_that_are_given_win_over_what_init_says(dtype, init):
    def biases(value):
        net = fastbp.MLP((4, 3), init=init, bias_init=value, dtype=dtype, seed=1)
        return net.biases[0].tolist()

    assert biases("zeros") == biases(0) == [0, 0, 0]
    assert biases(0.5) == biases(np.float32(0.5)) == biases(np.array(0.5)) == [0.5, 0.5, 0.5]
    assert biases(lambda rng, n_in, n_out: [n_in, n_out, -1]) == [4, 3, -1]
    assert 0 < max(map(abs, biases("uniform"))) < 0.5


def test_the_seed_alone_decides_the_draw_of_biases(dtype):
    def draw(**options):
        net = fastbp.MLP((9, 8, 7), **{"bias_init": "uniform", "seed": 1, "dtype": dtype} | options)
        return b"".join(bias.tobytes() for bias in net.biases)

    assert draw() == draw() == draw(activation="tanh", backend="reference") == draw(init="torch")
    assert len({draw(seed=seed) for seed in (1, 2, 2**63 + 1)}) == 3


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"bias_init": "zero"}, ValueError, "bias_init.*did you mean 'zeros'"),
        ({"bias_init": [0.0, 0.0]}, TypeError, "bias_init must be one of 'zeros', 'uniform', a number or a callable"),
        ({"bias_init": True}, TypeError, "bias_init must be one of"),
        ({"bias_init": np.nan}, ValueError, "bias_init must be finite, got nan"),
        ({"bias_init": -np.inf}, ValueError, "bias_init must be finite, got -inf"),
        ({"bias_init": lambda rng, n_in, n_out: np.zeros((n_in, n_out))}, ValueError,
         r"bias_init\(rng, 4, 3\) must have shape \(3,\), got \(4, 3\)"),
        ({"bias_init": "zeros", "bias": False}, ValueError, "bias_init='zeros' is given, but .* bias=False"),
        ({"bias_init": "zeros", "init": [np.ones((4, 3))]}, ValueError, "give either bias_init or arrays in init"),
        ({"bias_init": 0.1, "init": np.ones((1, 4, 3))}, ValueError, "give either bias_init or arrays in init"),
    ],
)  # fmt: skip
def test_biases_that_cannot_be_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        fastbp.MLP((4, 3), **options)


# ------------------------------------------------------------------ seeds


def test_a_generator_gives_one_draw_and_moves_on():
    given, same = np.random.default_rng(5), np.random.default_rng(5)
    seeds = [fastbp.MLP((9, 8), seed=given).seed for _ in range(3)]
    assert seeds == [int(same.integers(2**64, dtype=np.uint64)) for _ in range(3)]
    assert all(type(seed) is int for seed in seeds)
    net = fastbp.MLP((9, 8), seed=np.random.default_rng(5))
    assert net.flatten().tobytes() == fastbp.MLP((9, 8), seed=seeds[0]).flatten().tobytes()


def test_a_seed_sequence_stays_as_it_is():
    given = np.random.SeedSequence(5)
    seeds = {fastbp.MLP((9, 8), seed=given).seed for _ in range(3)}
    assert seeds == {int(np.random.SeedSequence(5).generate_state(1, np.uint64)[0])}
    assert [child.spawn_key for child in given.spawn(1)] == [(0,)]


@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.SeedSequence])
def test_fit_takes_the_same_seeds(kind):
    X, t, nets = np.random.default_rng(0).normal(size=(20, 3)), np.zeros((20, 2)), []
    for seed in (kind(7), fastbp.MLP((1, 1), seed=kind(7)).seed):
        nets.append(fastbp.MLP((3, 2), seed=1))
        nets[-1].fit(X, t, optimizer="sgd", batch_size=4, epochs=2, seed=seed)
    assert nets[0].seed == nets[1].seed != 1
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


@pytest.mark.parametrize(
    "seed, kind, message",
    [
        (np.random.RandomState(1), TypeError, "got RandomState.*np.random.default_rng makes a Generator of it"),
        (np.random.PCG64(1), TypeError, "np.random.default_rng makes a Generator of it"),
        ("1", TypeError, "seed must be an integer, a Generator or a SeedSequence of NumPy, got '1'$"),
        (1.0, TypeError, "seed must be an integer"),
        (True, TypeError, "seed must be an integer"),
        (-1, ValueError, "seed must be from 0 to"),
        (2**64, ValueError, "seed must be from 0 to"),
    ],
)
def test_other_seeds_are_refused(seed, kind, message):
    net = fastbp.MLP((3, 2), seed=1)
    run = {"steps": 1, "optimizer": "sgd", "seed": seed}
    for call in (lambda: fastbp.MLP((3, 2), seed=seed), lambda: net.fit([[1, 2, 3]], [[1, 2]], **run)):
        with pytest.raises(kind, match=message):
            call()
    assert net.seed == 1 and net.step == 0


# ------------------------------------------------------------------ the caller's own


def test_a_callable_is_asked_layer_by_layer_and_shares_one_generator(dtype):
    asked = []

    def init(rng, in_features, out_features):
        asked.append((in_features, out_features))
        return rng.normal(size=(in_features, out_features))

    net = fastbp.MLP((4, 3, 2), init=init, dtype=dtype, seed=6)
    assert asked == [(4, 3), (3, 2)]
    assert not np.isin(net.weights[1], net.weights[0]).any()
    again = fastbp.MLP((4, 3, 2), init=init, dtype=dtype, seed=6)
    assert again.flatten().tobytes() == net.flatten().tobytes()


W1, W2 = np.arange(12.0).reshape(4, 3) - 5, np.arange(6.0).reshape(3, 2) + 0.1
B1, B2 = np.array([0.5, 1.5, 2.5]), np.array([-1.0, 1.0])
Z1, Z2 = np.zeros(3), np.zeros(2)
GIVEN = {  # init, weights, biases
    "arrays": ([W1, W2], (W1, W2), (Z1, Z2)),
    "a tuple of arrays": ((W1, W2), (W1, W2), (Z1, Z2)),
    "nested lists": ([W1.tolist(), W2.tolist()], (W1, W2), (Z1, Z2)),
    "integers": ([W1.astype(int), np.ones((3, 2), bool)], (W1, np.ones((3, 2))), (Z1, Z2)),
    "any layout": ([np.asfortranarray(W1), W2[::-1][::-1]], (W1, W2), (Z1, Z2)),
    "byte-swapped": ([W1.astype(">f8"), W2.astype(">f4")], (W1, W2.astype("f4")), (Z1, Z2)),
    "pairs": ([(W1, B1), (W2, B2)], (W1, W2), (B1, B2)),
    "pairs of lists": ([(W1.tolist(), B1.tolist()), (W2, B2)], (W1, W2), (B1, B2)),
    "a pair and an array": ([(W1, B1), W2], (W1, W2), (B1, Z2)),
    "pairs of a callable": (
        lambda rng, n_in, n_out: (W1, B1) if n_in == 4 else (W2, B2), (W1, W2), (B1, B2)),
}  # fmt: skip


@pytest.mark.parametrize("what", GIVEN)
def test_given_arrays_are_the_weights_and_biases(dtype, what):
    init, weights, biases = GIVEN[what]
    net = fastbp.MLP((4, 3, 2), init=init, dtype=dtype)
    for found, wanted in zip((*net.weights, *net.biases), (*weights, *biases)):
        assert found.tobytes() == wanted.astype(dtype).tobytes()


TWO_ROWS = ((1, 2, 3), (4, 5, 6))  # two inputs: as many rows as a pair has items


@pytest.mark.parametrize("item, bias", [(TWO_ROWS, 0), ((TWO_ROWS, (7, 8, 9)), (7, 8, 9))], ids=["alone", "in a pair"])
@pytest.mark.parametrize("kind", [tuple, lambda rows: (np.array(rows[0]), list(rows[1]))], ids=["tuples", "others"])
def test_a_tuple_of_two_rows_is_a_weight_and_no_pair(dtype, item, bias, kind):
    net = fastbp.MLP((2, 3), init=[kind(item)], dtype=dtype)
    assert np.array_equal(net.weights[0], TWO_ROWS)
    assert np.array_equal(net.biases[0], np.broadcast_to(bias, 3))


def test_a_tuple_of_two_rows_needs_no_bias(dtype):
    net = fastbp.MLP((2, 2), init=[((1, 2), (3, 4))], bias=False, dtype=dtype)
    assert np.array_equal(net.weights[0], [[1, 2], [3, 4]])


def test_a_three_dimensional_array_is_one_matrix_per_layer(dtype):
    stack = np.random.default_rng(0).normal(size=(3, 5, 5))
    net = fastbp.MLP((5, 5, 5, 5), init=stack, dtype=dtype)
    assert np.array_equal(net.weights, stack.astype(dtype))


def test_given_arrays_are_copied_never_shared(dtype):
    weight, bias = np.ones((4, 2), dtype), np.ones(2, dtype)
    net = fastbp.MLP((4, 2), init=[(weight, bias)], dtype=dtype)
    net.fit(np.ones((4, 4)), np.zeros((4, 2)), steps=3)
    assert (weight == 1).all() and (bias == 1).all()
    weight[...] = 9
    assert (net.weights[0] < 1).all()
    other = fastbp.MLP((4, 2), init=[(net.weights[0], net.biases[0])], dtype=dtype)
    assert other.flatten().tobytes() == net.flatten().tobytes()
    assert not np.may_share_memory(other.params, net.params)


def test_uniform_weights_are_the_draw_of_numpys_uniform_to_the_bit():
    for scale, fan_in, fan_out in (("glorot", 64, 64), ("he", 7, 300), ("lecun", 1, 1)):
        seeds = [np.random.Generator(np.random.PCG64(fan_in)) for _ in range(2)]
        bound = np.sqrt(3.0 * VARIANCE[scale](fan_in, fan_out))
        drawn = initializers.TABLE[f"{scale}_uniform"](seeds[0], fan_in, fan_out)
        assert (drawn == seeds[1].uniform(-bound, bound, (fan_in, fan_out))).all()
        assert seeds[0].random() == seeds[1].random()
