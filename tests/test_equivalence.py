"""The compiled kernels against the reference and against a textbook, on every shape; and where NaN may go."""

import itertools
import math
import random
import zlib
from functools import cache, lru_cache, partial
from unittest import mock

import numpy as np
import pytest
from conftest import every_case, sampled
from targets import outputs_for, targets
from tolerance import assert_close, tolerance

import fastbp
from fastbp import activations, losses
from fastbp.backends.plan import make_plan
from fastbp.order import epoch_order
from fastbp.rows import ANY

# ------------------------------------------------------------------ the textbook: float64, plain formulas

GELU = math.sqrt(2 / math.pi)
SELU, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def gelu_tanh(z):
    return np.tanh(GELU * (z + 0.044715 * z**3))


def gelu_slope(z):
    t = gelu_tanh(z)
    return (1 + t) / 2 + z / 2 * (1 - t**2) * GELU * (1 + 3 * 0.044715 * z**2)


TEXTBOOK_ACTIVATION = {  # f(z), f'(z)
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "softplus": (lambda z: np.logaddexp(0, z), sigmoid),
    "gelu": (lambda z: z / 2 * (1 + gelu_tanh(z)), gelu_slope),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "selu": (
        lambda z: SELU * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
        lambda z: SELU * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0))),
    ),
    "mish": (
        lambda z: z * np.tanh(np.logaddexp(0, z)),
        lambda z: np.tanh(np.logaddexp(0, z)) + z * sigmoid(z) / np.cosh(np.clip(np.logaddexp(0, z), 0, 300)) ** 2,
    ),
    "hard_sigmoid": (lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: np.where(abs(z) < 3, 1 / 6, 0)),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: np.where(abs(z) < 1, 1.0, 0)),
    "hard_swish": (
        lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
        lambda z: np.where(abs(z) < 3, z / 3 + 0.5, z >= 3),
    ),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "gaussian": (lambda z: np.exp(-(z**2)), lambda z: -2 * z * np.exp(-(z**2))),
    "exp": (np.exp, np.exp),
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: np.where((z > 0) & (z < 6), 1.0, 0)),
}
KINKED = {  # where the slope jumps
    "relu": (0,), "leaky_relu": (0,), "selu": (0,), "hard_sigmoid": (-3, 3), "hard_tanh": (-1, 1),
    "hard_swish": (-3, 3), "relu6": (0, 6),
}  # fmt: skip
# A NaN meets a constant slope: it is hidden on the way back, but not in the output.
CONSTANT_SLOPES = {"identity", "relu", "leaky_relu", "hard_sigmoid", "hard_tanh", "relu6"}


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def one_hot(t, k):
    return np.eye(k)[t] if t.ndim == 1 else t.astype(float)


def cross_entropy(z, t):
    top = z.max(axis=1, keepdims=True)
    return (t * (top + np.log(np.exp(z - top).sum(axis=1, keepdims=True)) - z)).sum(axis=1)


def gaussian_nll(z, t):
    mean, log_variance = np.split(z, 2, axis=1)
    log_variance = np.maximum(log_variance, math.log(1e-6))
    return (log_variance + (mean - t) ** 2 / np.exp(log_variance)).mean(axis=1) / 2


def gaussian_nll_slope(z, t):
    mean, log_variance = np.split(z, 2, axis=1)
    variance = np.maximum(np.exp(log_variance), 1e-6)
    by_variance = (1 / variance - (mean - t) ** 2 / variance**2) / 2
    return np.hstack([(mean - t) / variance, by_variance * np.exp(log_variance)]) / t.shape[1]


def miss(z, t):
    """The probability given to what is not so."""
    return (1 - t) * sigmoid(z) + t * sigmoid(-z)


def focal(z, t):
    return (miss(z, t) ** 2 * (np.logaddexp(0, z) - z * t)).mean(axis=1)


def focal_slope(z, t):
    by_miss = 2 * miss(z, t) * sigmoid(z) * sigmoid(-z) * (1 - 2 * t) * (np.logaddexp(0, z) - z * t)
    return (by_miss + miss(z, t) ** 2 * (sigmoid(z) - t)) / z.shape[1]


TEXTBOOK_LOSS = {  # of each row, and its gradient
    "mse": (lambda z, t: ((z - t) ** 2).mean(axis=1), lambda z, t: 2 * (z - t) / z.shape[1]),
    "half_squared_error": (lambda z, t: ((z - t) ** 2).sum(axis=1) / 2, lambda z, t: z - t),
    "softmax_cross_entropy": (cross_entropy, lambda z, t: softmax(z) - t),
    "binary_cross_entropy": (
        lambda z, t: (np.logaddexp(0, z) - z * t).mean(axis=1),
        lambda z, t: (sigmoid(z) - t) / z.shape[1],
    ),
    "mae": (lambda z, t: abs(z - t).mean(axis=1), lambda z, t: np.sign(z - t) / z.shape[1]),
    "huber": (
        lambda z, t: np.where(abs(z - t) < 1, (z - t) ** 2 / 2, abs(z - t) - 0.5).mean(axis=1),
        lambda z, t: np.clip(z - t, -1, 1) / z.shape[1],
    ),
    "log_cosh": (
        lambda z, t: (np.logaddexp(z - t, t - z) - math.log(2)).mean(axis=1),
        lambda z, t: np.tanh(z - t) / z.shape[1],
    ),
    "quantile": (lambda z, t: abs(z - t).mean(axis=1) / 2, lambda z, t: np.sign(z - t) / 2 / z.shape[1]),
    "poisson": (lambda z, t: (np.exp(z) - t * z).mean(axis=1), lambda z, t: (np.exp(z) - t) / z.shape[1]),
    "poisson_deviance": (
        lambda z, t: (np.exp(z) - t * z + t * np.log(np.where(t > 0, t, 1)) - t).mean(axis=1),
        lambda z, t: (np.exp(z) - t) / z.shape[1],
    ),
    "gamma": (lambda z, t: (z + t / np.exp(z)).mean(axis=1), lambda z, t: (1 - t / np.exp(z)) / z.shape[1]),
    "tweedie": (  # power 1.5
        lambda z, t: 2 * (np.exp(z / 2) + t * np.exp(-z / 2)).mean(axis=1),
        lambda z, t: (np.exp(z / 2) - t * np.exp(-z / 2)) / z.shape[1],
    ),
    "gaussian_nll": (gaussian_nll, gaussian_nll_slope),
    "hinge": (
        lambda z, t: np.maximum(1 - z * t, 0).mean(axis=1),
        lambda z, t: np.where(z * t < 1, -t, 0) / z.shape[1],
    ),
    "squared_hinge": (
        lambda z, t: (np.maximum(1 - z * t, 0) ** 2).mean(axis=1),
        lambda z, t: -2 * t * np.maximum(1 - z * t, 0) / z.shape[1],
    ),
    "focal": (focal, focal_slope),
    "kl_divergence": (
        lambda z, t: cross_entropy(z, t) + (t * np.log(np.where(t > 0, t, 1))).sum(axis=1),
        lambda z, t: softmax(z) - t,
    ),
}
STEEP = {  # distance from where the gradient jumps
    "mae": lambda z, t: z - t, "quantile": lambda z, t: z - t, "hinge": lambda z, t: 1 - z * t,
}  # fmt: skip


def share(n, weight):
    """What each row counts for in a batch."""
    if weight is None:
        return np.full(n, 1 / n)
    return weight / weight.sum() if weight.any() else np.zeros(n)


def loss_gradient(loss, a, t, weight):
    """dL/da of a batch."""
    a = a.astype(float)
    with np.errstate(over="ignore"):
        return TEXTBOOK_LOSS[loss][1](a, one_hot(t, a.shape[1])) * share(len(a), weight)[:, None]


class Textbook:
    """A network as its textbook has it.

    `kink` is the least |z| met where a slope jumps, relative to its terms; `faded` the least part of a dL/d(output) met
    that has come through to the input.
    """

    def __init__(self, weights, biases, names):
        self.weights = [np.array(w, float) for w in weights]
        self.biases = [np.array(b, float) for b in biases] or [np.zeros(w.shape[1]) for w in weights]
        self.has_bias = bool(biases)
        self.names = names
        self.velocity = None
        self.kink = self.faded = math.inf

    def forward(self, x):
        """z of each layer; x and the output of each layer."""
        zs, outputs = [], [x.astype(float)]
        for w, b, name in zip(self.weights, self.biases, self.names):
            zs.append(outputs[-1] @ w + b)
            outputs.append(TEXTBOOK_ACTIVATION[name][0](zs[-1]))
            for kink in KINKED.get(name, ()):
                terms = np.abs(outputs[-2]) @ np.abs(w) + np.abs(b) + abs(kink)
                distance = np.abs(zs[-1] - kink) / np.where(terms > 0, terms, 1)
                self.kink = min(self.kink, distance[zs[-1] != 0].min(initial=1))
        return zs, outputs

    def gradient(self, x, t, loss, weight=None):
        """Loss, and its gradient by each parameter in the order of `flatten`."""
        zs, outputs = self.forward(x)
        self.output = outputs[-1]
        t = one_hot(t, zs[-1].shape[1])
        if loss in STEEP:
            distance = np.abs(STEEP[loss](self.output, t)) / (1 + np.abs(self.output).max())
            self.kink = min(self.kink, distance[distance != 0].min(initial=1))  # 0 is exact: a bound met
        value = TEXTBOOK_LOSS[loss][0](outputs[-1], t) @ share(len(x), weight)
        grad_output = upstream = loss_gradient(loss, outputs[-1], t, weight)
        gradients = []
        for w, z, a, name in zip(self.weights[::-1], zs[::-1], outputs[-2::-1], self.names[::-1]):
            delta = upstream * TEXTBOOK_ACTIVATION[name][1](z)
            gradients = [a.T @ delta, *([delta.sum(axis=0)] if self.has_bias else []), *gradients]
            upstream = delta @ w.T
        if upstream.any():
            self.faded = min(self.faded, np.abs(upstream).max() / np.abs(grad_output).max())
        self.grad_input = upstream
        return value, gradients

    def parameters(self):
        if not self.has_bias:
            return self.weights
        return [p for pair in zip(self.weights, self.biases) for p in pair]

    def step(self, x, t, loss, weight, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        value, gradients = self.gradient(x, t, loss, weight)
        gradients = [g + weight_decay * p for g, p in zip(gradients, self.parameters())]
        if self.velocity is None:
            self.velocity = [np.zeros_like(g) for g in gradients]
        self.velocity = [momentum * v + g for g, v in zip(gradients, self.velocity)]
        for p, g, v in zip(self.parameters(), gradients, self.velocity):
            p -= lr * (g + momentum * v if nesterov else v)
        return value


# ------------------------------------------------------------------ cases

# Not those that differ from a cross-entropy in the value alone, which rounds probabilities: see test_losses.py.
TABLED = {name: row for name, row in losses.TABLE.items() if "log_loss" not in name}
HEADS = [(name, False) for name in TABLED] + [
    (name, True) for name, row in TABLED.items() if not row.from_logits
]  # (loss, whether the output goes through the activation)
OPTIMIZERS = [  # weight_decay in units at which it weighs as much as the gradient
    {},
    {"weight_decay": 0.5},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.5},
]


def name_of_rule(settings):
    return "-".join(key for key in settings if key != "lr") or "plain"


ROWS = {  # rows of data for a batch size m, and the batch size asked for
    "whole batches": lambda m: (2 * m, m),
    "last batch smaller": lambda m: (m + (m + 1) // 2, m),
    "last batch of one": lambda m: (m + 1, m),
    "batch > n": lambda m: (m, 2 * m + 3),
}
PEERS = 2  # neighbours of a case that must come out as it does
# `fused verbs` and `verbs` go step by step with the caller's own gradient.
PATHS = ["fit", "fit unfused", "fused verbs", "verbs"]
KINDS = {
    "depth": [2, 3], "activation": list(activations.TABLE), "head": HEADS, "optimizer": range(len(OPTIMIZERS)),
    "bias": [True, False], "weighted": [False, True], "rows": list(ROWS), "shuffle": [False, True], "path": PATHS,
}  # fmt: skip
SMALL = range(1, 34)
LARGE = [34, 47, 48, 49, 63, 64, 65, 66, 95, 96, 97, 127, 128, 129, 130, 255, 256, 257, 784, 1023, 1024, 1025]
PLACES = ("n_in", "hidden", "n_out", "batch")
HIDDEN_PART = 8
FAINT = 1e-3  # outputs and gradients below are mostly the rounding of numbers of size 1
WORK_OF_LARGE = 4_000_000  # multiplications of one forward pass


def covering(factors, rows):
    """`rows`, and more of them until every two levels of every two factors meet in some row."""
    rng, names = random.Random(1), list(factors)
    rows = [{name: row.get(name, rng.choice(factors[name])) for name in names} for row in rows]
    more = []
    for a, b in itertools.combinations(names, 2):
        met = {(row[a], row[b]) for row in rows}
        for pair in itertools.product(factors[a], factors[b]):
            if pair in met:
                continue
            for row in more:
                if row.setdefault(a, pair[0]) == pair[0] and row.setdefault(b, pair[1]) == pair[1]:
                    break
            else:
                more.append({a: pair[0], b: pair[1]})
    return rows + [{name: row.get(name, rng.choice(factors[name])) for name in names} for row in more]


def levels(count, size):
    """`count` levels of each kind, equally often, as rows."""
    rng = random.Random(size)
    columns = {}
    for name, values in KINDS.items():
        columns[name] = list(itertools.islice(itertools.cycle(values), count))
        rng.shuffle(columns[name])
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


@cache
def small_cases():
    """Every two sizes from 1 to 33 meet: (i, j, i + j, i + 2 j) modulo 33 are orthogonal. So does all else."""
    sizes = [(i, j, (i + j) % 33, (i + 2 * j) % 33) for i, j in itertools.product(range(33), repeat=2)]
    factors = dict.fromkeys(PLACES, SMALL) | KINDS
    rows = [dict(zip(factors, (k + 1 for k in row))) for row in sizes]
    return covering(factors, [row | kinds for row, kinds in zip(rows, levels(len(rows), 1))])


@cache
def tiny_cases():
    """Every two sizes up to 8, with every batch up to 72, at every depth from 1 to 4."""
    sizes = [(i, j, (i + j) % 8, (i + 3 * j) % 9 + 9 * k) for k in range(8) for i in range(8) for j in range(8)]
    rows = [dict(zip(PLACES, (size + 1 for size in row))) for row in sizes]
    return [row | kinds | {"depth": k % 4 + 1} for k, (row, kinds) in enumerate(zip(rows, levels(len(rows), 3)))]


@cache
def hidden_cases():
    """One hidden layer of up to 17 units, up to 5 outputs, each batch up to 33: all, or one of `HIDDEN_PART`."""
    sizes = [(k % 17 + 1, *three) for k, three in enumerate(itertools.product(range(1, 18), range(1, 6), range(1, 34)))]
    rows = [dict(zip(PLACES, size)) | kinds for size, kinds in zip(sizes, levels(len(sizes), 5))]
    return [row | {"depth": 2, "path": "fit"} for row in (rows if every_case else rows[::HIDDEN_PART])]


@cache
def large_cases():
    """Every large size in every place, beside small and large ones; before 1 to 5 outputs; with batches up to 26."""
    rng = random.Random(2)
    shapes = [(784, 128, 10, 32), (1024, 1024, 1, 1), (1023, 1025, 3, 2), (256, 257, 255, 30), (8, 64, 4, 1025)]
    for n_out, big, batch in itertools.product(range(1, 6), (66, 129, 257), (1, 3, 63, 256, 300)):
        shapes.append((rng.choice(SMALL), big, n_out, batch))
    for big, batch in itertools.product((65, 129, 130), range(1, 27)):
        shapes.append((rng.choice(SMALL), big, rng.choice(SMALL), batch))
        shapes.append((rng.choice(LARGE[:10]), rng.choice(SMALL), big, batch))
    for size, place, partner in itertools.product(LARGE, range(4), (SMALL, LARGE)):
        shape = [rng.choice(partner if k % 2 else SMALL) for k in range(4)]
        shape[place] = size
        shapes.append(tuple(shape))
    fits = [s for s in shapes if s[3] * s[1] * (s[0] + s[2]) <= WORK_OF_LARGE]
    return [dict(zip(PLACES, shape)) | kinds for shape, kinds in zip(fits, levels(len(fits), 4))]


@cache
def all_cases():
    """Every three sizes from 1 to 33 beside a going round of batches; every combination of kinds: both in full."""
    sizes = [(*three, k % 33 + 1) for k, three in enumerate(itertools.product(SMALL, repeat=3))]
    every = [dict(zip(KINDS, values)) for values in itertools.product(*KINDS.values())]
    random.Random(3).shuffle(every)
    count = max(len(sizes), len(every))
    return [dict(zip(PLACES, sizes[k % len(sizes)])) | every[k % len(every)] for k in range(count)]


def spread(rng, shape):
    """Zeros, negatives, and sizes over four orders of magnitude; every value exact in float32."""
    values = (rng.normal(size=shape) * 2.0 ** rng.integers(-8, 4, shape)).astype(np.float32)
    values[rng.uniform(size=shape) < 0.1] = 0
    return values


def on_grid(rng, shape):
    """Zeros, negatives and a spread in so few bits that a product of matrices of them is exact in float32."""
    return (rng.integers(-8, 9, shape) * 2.0 ** rng.integers(-4, 1, shape)).astype(np.float32)


class Problem:
    """A case with its data: far from every kink, with a learning rate at which a step moves the weights by a tenth."""

    def __init__(self, case):
        self.case = case
        self.loss, through = case["head"]
        # In a large layer some z is always near the kink. There the one z that matters is exact, and one step is made.
        self.exact = case["activation"] in KINKED and max(case["n_in"], case["hidden"]) * case["batch"] > 2000
        self.steps = 1 if self.exact or self.loss in STEEP else 3
        depth = min(case["depth"], 2) if self.exact else case["depth"]
        self.sizes = (case["n_in"], *[case["hidden"]] * (depth - 1), outputs_for(self.loss, case["n_out"]))
        self.names = [*[case["activation"]] * (depth - 1), case["activation"] if through else "identity"]
        if self.exact:
            self.names[-1] = "identity"
        seed = zlib.crc32(repr(case).encode())
        for attempt in range(64):
            rng = np.random.default_rng([seed, attempt])
            with np.errstate(all="ignore"):  # exp may overflow: then the data are not well posed
                self.draw(rng, attempt // 8 + 3 * (case["activation"] == "exp"))
                self.choose_rate(0.1 / 2 ** (attempt // 4))
                if self.exact or self.well_posed(rng):
                    return
        raise AssertionError(f"no data for {case}")

    def draw(self, rng, shrink):
        case, n_in = self.case, self.sizes[0]
        values = on_grid if self.exact else spread
        self.n, self.batch_size = ROWS[case["rows"]](case["batch"])
        self.X = values(rng, (self.n, n_in)) / np.float32(2**shrink)
        self.weight = None
        if case["weighted"]:
            self.weight = rng.integers(0, 9, self.n) / 4
            self.weight[0] = 1
        self.weights, self.biases = [], []
        for k, shape in enumerate(zip(self.sizes, self.sizes[1:])):
            small = 2.0 ** -round(math.log2(shape[0]) / 2)
            if case["activation"] == "hard_sigmoid":  # its slope is 1/6: nothing would come through
                small *= 4
            weight = on_grid(rng, shape) / 4 if self.exact and k == 0 else rng.normal(size=shape)
            self.weights.append((weight * small).astype(np.float32))
            if case["bias"]:
                self.biases.append(values(rng, shape[1]) / 4)
        self.y = self.targets(rng)
        self.seed = int(rng.integers(0, 2**63))

    def targets(self, rng):
        """From the loss's domain; where the gradient jumps, away from that at the first step."""
        row, n_out = losses.TABLE[self.loss], self.sizes[-1]
        if row.labels and self.case["batch"] % 2:
            return rng.integers(0, n_out, self.n)
        y = spread(rng, (self.n, n_out)) if row.domain == ANY else targets(rng, self.loss, self.n, n_out)
        if row.domain == ANY:
            y = y[:, : row.targets(n_out)]
        if self.loss in STEEP:
            output = self.book().forward(self.X)[1][-1]
            if row.domain == ANY:
                y = output + np.copysign(0.25 + np.abs(y), y)
            else:
                y = np.where(np.abs(np.abs(output) - 1) < 0.25, -np.sign(output), y)
        return y.astype(np.float32)

    def batches(self):
        """The rows of each step."""
        epoch, start, m = 0, 0, min(self.batch_size, self.n)
        for _ in range(self.steps):
            order = epoch_order(self.seed, epoch, self.n) if self.case["shuffle"] else np.arange(self.n)
            yield order[start : start + m]
            start += m
            if start >= self.n:
                epoch, start = epoch + 1, 0

    def book(self):
        return Textbook(self.weights, self.biases, self.names)

    def batch(self, rows):
        return self.X[rows], self.y[rows], self.loss, None if self.weight is None else self.weight[rows]

    def choose_rate(self, share):
        """A learning rate at which a step moves the weights by `share`."""
        gradients = self.book().gradient(*self.batch(next(self.batches())))[1]
        largest = max(np.abs(g).max() for g in gradients)
        ratio = max(np.abs(w).max() for w in self.weights) / largest if largest > 1e-6 else 1.0
        self.lr = share * ratio
        self.settings = dict(OPTIMIZERS[self.case["optimizer"]])
        if "weight_decay" in self.settings:
            self.settings["weight_decay"] /= ratio

    def well_posed(self, rng):
        """No z beside a kink, nothing lost in a tail; a last bit of float32 in parameters and data stays about that."""
        book = self.book()
        wanted = self.outcome(book, self.X)
        one_class = losses.TABLE[self.loss].statistic and self.sizes[-1] == 1
        output, gradient = wanted[:2]
        alive = min(np.abs(gradient).max() if not one_class else 1, np.abs(output).max(), book.faded) > FAINT
        if not alive or book.kink <= 4 * tolerance(np.float32):
            return False
        for _ in range(PEERS):
            peer = self.book()
            start = [*peer.parameters(), self.X]
            nudged = [p * (1 + np.finfo(np.float32).eps * rng.choice([-1, 1], p.shape)) for p in start]
            for p, value in zip(peer.parameters(), nudged):
                p[...] = value
            for p, q in zip(wanted, self.outcome(peer, nudged[-1])):
                if not np.abs(p - q).max() <= tolerance(np.float32, self.roundings, np.abs(p).max()) / 4:
                    return False
        # A sum that cancels inside an activation shows in float32 alone; the compiled kernels have no say in this.
        try:
            exact, rough = (parameters(self.run("reference", dtype)[1]) for dtype in (np.float64, np.float32))
        except fastbp.NonFiniteError:
            return False
        bounds = [tolerance(np.float32, self.roundings, np.abs(p).max()) for p in exact]
        return all(np.abs(p - q).max() <= bound for p, q, bound in zip(exact, rough, bounds))

    def outcome(self, book, X):
        """Output, gradient and grad_input of all rows, losses beside a 1, then the parameters after the run."""
        value, gradients = book.gradient(X, *self.batch(slice(None))[1:])
        first = [book.output, np.concatenate([g.ravel() for g in gradients]), book.grad_input]
        values = [book.step(X[rows], *self.batch(rows)[1:], self.lr, **self.settings) for rows in self.batches()]
        return [*first, np.array([1.0, value, *values]), *book.parameters()]

    @property
    def roundings(self):
        """In the sums on the way of one number."""
        return self.steps * (sum(self.sizes) + min(self.batch_size, self.n))

    @property
    def k(self):
        """With those between the sums; exp makes |z| relative roundings of one."""
        return self.roundings * (16 if "exp" in self.names else 4)

    def net(self, backend, dtype):
        init = list(zip(self.weights, self.biases)) if self.biases else self.weights
        return fastbp.MLP(
            self.sizes, activation=self.names[:-1], output_activation=self.names[-1], bias=self.case["bias"],
            dtype=dtype, init=init, seed=self.seed, backend=backend,
        )  # fmt: skip

    def run(self, backend, dtype, path="fit"):
        """What the network gives before training, the trained network, the losses of its run or None."""
        net = self.net(backend, dtype)
        rule = fastbp.SGD(lr=self.lr, **self.settings)
        X, y, loss, weight = self.batch(slice(None))
        value, gradient = net.loss_and_grad(X, y, loss=loss, sample_weight=weight)
        output = net.forward(X)
        grad_input = net.backward(loss_gradient(loss, output, y, weight))
        before = {"loss": value, "gradient": gradient, "output": output, "grad_input": grad_input}
        if path.startswith("fit"):
            plan = partial(make_plan, fused="unfused" not in path)
            with mock.patch("fastbp.mlp.make_plan", plan):
                history = net.fit(
                    self.X, self.y, loss=self.loss, optimizer=rule, batch_size=self.batch_size, steps=self.steps,
                    shuffle=self.case["shuffle"], sample_weight=self.weight, seed=self.seed,
                )  # fmt: skip
            return before, net, history.loss
        for rows in self.batches():
            a = net.forward(self.X[rows])
            _, y, loss, weight = self.batch(rows)
            gradient = loss_gradient(loss, a, y, weight)
            if path == "fused verbs":
                net.backward_update(gradient, rule)
            else:
                net.backward(gradient)
                net.update(rule)
        return before, net, None


@lru_cache(maxsize=4096)
def oracle(key, precision=np.float64):
    """A case's problem, and what the reference makes of it."""
    problem = Problem(dict(key))
    before, net, trained = problem.run("reference", precision)
    return problem, before, parameters(net), trained


def parameters(net):
    """Weights and biases in the order of `flatten`."""
    return [view for k, weight in enumerate(net.weights) for view in (weight, *net.biases[k : k + 1])]


def check_case(case, dtype, backend="cython"):
    key = tuple(case.items())
    found = oracle(key)[0].run(backend, dtype, case["path"])
    try:
        compare(found, oracle(key), dtype)
    except AssertionError:  # one case of a hundred thousand: float64 itself is about as far from the truth, at times
        compare(found, oracle(key, np.longdouble), dtype)


def compare(found, exact, dtype):
    got_before, net, got_trained = found
    problem, before, params, trained = exact
    k = problem.k
    for what, wanted in before.items():
        floor = 1 if what == "loss" else tolerance(dtype)  # with one class the gradient of softmax is 0
        assert_close(got_before[what], wanted, dtype, k, scale=max(np.abs(wanted).max(), floor), what=what)
    for got, wanted in zip(parameters(net), params):
        assert_close(got, wanted, dtype, k, what="parameters")
    if got_trained is not None:
        assert_close(got_trained, trained, dtype, k, scale=max(1, np.abs(trained).max()), what="history")
    assert net.step == problem.steps


def check_cases(cases, dtype):
    wrong = []
    for case in cases:
        try:
            check_case(case, dtype)
        except AssertionError as error:
            wrong.append(f"{case}: {error}")
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong[:5])


SHARDS = 16


@pytest.mark.parametrize("shard", range(SHARDS))
def test_compiled_training_is_the_references_on_every_two_small_sizes(shard, isa, dtype):
    check_cases(small_cases()[shard::SHARDS], dtype)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_compiled_training_is_the_references_on_tiny_sizes(shard, isa, dtype):
    check_cases(tiny_cases()[shard::SHARDS], dtype)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_compiled_training_is_the_references_with_one_small_hidden_layer(shard, isa, dtype):
    check_cases(hidden_cases()[shard::SHARDS], dtype)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_compiled_training_is_the_references_on_large_sizes(shard, isa, dtype):
    check_cases(large_cases()[shard::SHARDS], dtype)


@pytest.mark.slow
@pytest.mark.skipif(not every_case, reason="the whole product: FASTBP_TEST_ALL=1")
@pytest.mark.parametrize("shard", range(4 * SHARDS if every_case else 1))
def test_compiled_training_is_the_references_in_every_case(shard, isa, dtype):
    check_cases(all_cases()[shard :: 4 * SHARDS], dtype)


def test_the_cases_cover_every_pair_and_their_data_is_spread():
    cases = small_cases()
    for a, b in itertools.combinations([*PLACES, *KINDS], 2):
        levels_of = [KINDS.get(name, SMALL) for name in (a, b)]
        assert len({(case[a], case[b]) for case in cases}) == math.prod(map(len, levels_of)), (a, b)
    for place in PLACES:
        assert {case[place] for case in large_cases()} >= set(LARGE), place
    tiny = tiny_cases()
    assert {case["batch"] for case in tiny} == set(range(1, 73)) and {case["depth"] for case in tiny} == {1, 2, 3, 4}
    for a, b in itertools.combinations(PLACES[:3], 2):
        assert len({(case[a], case[b]) for case in tiny}) == 64
    hidden = hidden_cases()
    for place, most in zip(PLACES, (17, 17, 5, 33)):
        assert {case[place] for case in hidden} == set(range(1, most + 1)), place
    for kind in ("activation", "head", "optimizer", "bias", "weighted", "rows", "shuffle"):
        assert {case[kind] for case in hidden} == set(KINDS[kind]), kind
    for values in (spread, on_grid):
        sample = values(np.random.default_rng(0), (33, 33))
        size = np.abs(sample[sample != 0])
        assert (sample == 0).any() and (sample < 0).any() and size.max() > 4 and size.max() / size.min() > 100


# ------------------------------------------------------------------ against the textbook


def trajectory(activation, head, optimizer, seed, nudge=0.0):
    """A network's start, moved by `nudge`, its data, and the textbook's end of 100 steps."""
    loss, through = head
    rng = np.random.default_rng(seed)
    sizes, n, m = (5, 9, 7, outputs_for(loss, 3)), 22, 8
    names = [activation, activation, activation if through else "identity"]
    weights = [(rng.normal(size=s) / math.sqrt(s[0])).astype(np.float32) for s in zip(sizes, sizes[1:])]
    biases = [rng.normal(size=k).astype(np.float32) / 4 for k in sizes[1:]]
    X = spread(rng, (n, sizes[0])) / 2
    if activation == "exp":
        X, weights = X / 8, [weight / 4 for weight in weights]
    y = targets(rng, loss, n, sizes[-1]).astype(np.float32)
    moved = [weight * (1 + nudge * rng.choice([-1, 1], weight.shape)) for weight in weights]
    book = Textbook(moved, biases, names)
    starts = range(0, n, m)
    steps = itertools.islice(itertools.cycle(slice(start, start + m) for start in starts), 100)
    value = [book.step(X[rows], y[rows], loss, None, **optimizer) for rows in steps]
    options = {"activation": activation, "output_activation": names[-1], "init": list(zip(weights, biases))}
    return sizes, options, X, y, m, book, value


@cache
def clear_trajectory(activation, head, rule):
    """Far from every kink, and where a last bit of the start stays about that, in the losses too."""
    for seed in range(200):
        found, peer = (trajectory(activation, head, dict(rule), seed, nudge) for nudge in (0, np.finfo(np.float32).eps))
        ends = zip([*found[5].parameters(), np.array(found[6])], [*peer[5].parameters(), np.array(peer[6])])
        steady = all(np.abs(p - q).max() <= tolerance(np.float32, 100, max(1, np.abs(p).max())) / 8 for p, q in ends)
        if found[5].kink > 2 * tolerance(np.float32) and steady:
            return found
    raise AssertionError("every seed comes too near a kink")


RATES = [
    {"lr": 0.05},
    {"lr": 0.05, "weight_decay": 0.01},
    {"lr": 0.02, "momentum": 0.8},
    {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
]


@pytest.mark.parametrize("activation, head, rule", sampled(9, activations.TABLE, HEADS, RATES), ids=str)
def test_100_steps_are_the_textbooks(activation, head, rule, kernels, dtype):
    sizes, options, X, y, m, book, values = clear_trajectory(activation, head, tuple(rule.items()))
    net = fastbp.MLP(sizes, dtype=dtype, backend=kernels, **options)
    before = net.flatten()
    history = net.fit(
        X, y, loss=head[0], optimizer=fastbp.SGD(**rule), batch_size=m, steps=100, shuffle=False
    )  # fmt: skip
    assert np.abs(net.flatten() - before).max() > 0.01, "nothing was trained"
    for got, wanted in zip(parameters(net), book.parameters()):
        assert_close(got, wanted, dtype, k=100, scale=max(1, np.abs(wanted).max()), what="weights after 100 steps")
    epochs = [np.average(values[k : k + 3], weights=[8, 8, 6][: len(values[k : k + 3])]) for k in range(0, 100, 3)]
    assert_close(history.loss, epochs, dtype, k=100, scale=max(1, np.abs(epochs).max()), what="history")


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=name_of_rule)
def test_a_fused_step_is_forward_backward_update(settings, kernels, dtype):
    X, G = (np.random.default_rng(k).normal(size=(13, size)) for k, size in enumerate((21, 5)))
    nets = [fastbp.MLP((21, 34, 17, 5), activation="gelu", dtype=dtype, seed=4, backend=kernels) for _ in range(2)]
    rule = fastbp.SGD(lr=0.1, **settings)
    for step in range(1, 6):
        outputs = [net.forward(X) for net in nets]
        apart = nets[0].backward(G)
        nets[0].update(rule)
        fused = nets[1].backward_update(G, rule)
        k = step * (sum(nets[0].sizes) + len(X))
        for got, wanted in ((outputs[1], outputs[0]), (fused, apart), (nets[1].flatten(), nets[0].flatten())):
            assert_close(got, wanted, dtype, k)
        assert nets[0].step == nets[1].step == step


@pytest.mark.parametrize("inputs", [1, 7, 9, 33, 130])
@pytest.mark.parametrize("outputs", [1, 4, 10, 17, 34, 100, 136])
def test_an_update_between_the_sums_of_the_next_tile_is_one_after_all_sums(inputs, outputs, isa, dtype):
    """Bit by bit, whatever tiles follow each other, where there are enough rows to spread it over and where not."""
    rng = np.random.default_rng(0)
    for n_rows in (2, 7, 8, 16, 17, 33, 300):
        X, G = rng.normal(size=(n_rows, inputs)), rng.normal(size=(n_rows, outputs))
        nets = [fastbp.MLP((inputs, outputs), dtype=dtype, seed=4, backend="cython") for _ in range(2)]
        rule = fastbp.Adam(lr=0.01, weight_decay=0.01)
        for _ in range(2):
            for net in nets:
                net.forward(X)
            nets[0].backward(G)
            nets[0].update(rule)
            nets[1].backward_update(G, rule)
        assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes(), n_rows


# ------------------------------------------------------------------ NaN, infinities, padding, the ends of the range

SIZES_AROUND_TILES = [1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 65, 130]


@pytest.mark.parametrize("n_rows", [1, 2, 9, 33])
def test_relu_of_nan_is_nan_at_every_length_and_position(n_rows, kernels, dtype):
    special = np.array([-np.inf, np.inf, -1, 2, -0.0, 0.0, -1e-30], dtype)
    for length in range(1, 68):
        plain = np.resize(special, length)
        net = fastbp.MLP(
            (1, length), output_activation="relu", init=[(np.zeros((1, length)), plain)], dtype=dtype, backend=kernels
        )  # fmt: skip
        for position in range(length) if n_rows == 1 or length % 16 < 3 else [0, length - 1]:
            net.biases[0][...] = plain
            net.biases[0][position] = np.nan
            wanted = np.maximum(plain, 0)
            wanted[position] = np.nan
            got = net.predict(np.zeros((n_rows, 1)))
            assert np.array_equal(got, np.tile(wanted, (n_rows, 1)), equal_nan=True), (length, position)


@pytest.mark.parametrize("n_rows", [1, 5, 30])
def test_a_hidden_relu_hands_nan_on(n_rows, kernels, dtype):
    for width in range(1, 68):
        net = fastbp.MLP((2, width, 3), seed=0, dtype=dtype, backend=kernels)
        net.biases[0][width // 2] = np.nan
        assert np.isnan(net.predict(np.ones((n_rows, 2)))).all(), width
        a = net.forward(np.ones((n_rows, 2)))
        net.backward(np.ones_like(a))
        assert np.isnan(net.grad_weights[1][width // 2]).all(), width
        assert (net.grad_weights[0][:, width // 2] != 0).all(), "a slope of 0 would hide the NaN"


@pytest.mark.parametrize("width", SIZES_AROUND_TILES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_in_one_row_reaches_only_that_row(width, value, kernels, dtype):
    for n_rows in (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 31, 33):
        rng = np.random.default_rng([width, n_rows])
        net = fastbp.MLP(
            (width, 33, 5), activation="tanh", dtype=dtype, init="glorot_normal", seed=width, backend=kernels
        )  # fmt: skip
        X = rng.normal(size=(n_rows, width))
        clean = net.predict(X)
        for row in {0, n_rows // 2, n_rows - 1}:
            dirty = X.copy()
            dirty[row, rng.integers(width)] = value
            got = net.predict(dirty)
            others = np.arange(n_rows) != row
            assert got[others].tobytes() == clean[others].tobytes(), (n_rows, row)
            assert np.isnan(got[row]).all() if np.isnan(value) else (got[row] != clean[row]).all()


@pytest.mark.parametrize("activation", activations.TABLE)
def test_every_activation_hands_nan_on_both_ways(activation, kernels, dtype):
    net = fastbp.MLP(
        (37, 37), output_activation=activation, bias=False, init=[np.eye(37)], dtype=dtype, backend=kernels
    )  # fmt: skip
    X = np.zeros((3, 37))
    X[1] = np.nan
    a = net.forward(X)
    assert np.isnan(a[1]).all() and np.isfinite(a[[0, 2]]).all()
    grad_input = net.backward(np.ones_like(a))
    assert np.isnan(grad_input[1]).all() or activation in CONSTANT_SLOPES
    assert np.isfinite(grad_input[[0, 2]]).all() and (grad_input[1] != 0).all()
    assert np.isnan(net.grad_weights[0]).all()


def test_zero_times_infinity_is_not_skipped(kernels, dtype):
    for width in SIZES_AROUND_TILES:
        net = fastbp.MLP((width, 3), init="zeros", seed=0, dtype=dtype, backend=kernels)
        X = np.zeros((4, width))
        X[2, width // 2] = np.inf
        assert np.isnan(net.predict(X)).all(axis=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("activation", activations.TABLE)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_unit_at_0_trains_by_its_slope_there(n_rows, activation, kernels, dtype):
    """Inputs of 0 may be skipped, but not what comes back to units that are 0 and not dead."""
    for width in (3, 9, 70):
        weight = np.random.default_rng(width).normal(size=(width, 30))
        net = fastbp.MLP((9, width, 30), activation=activation, init=[np.zeros((9, width)), weight], dtype=dtype,
                         backend=kernels)  # fmt: skip
        t = np.ones((n_rows, 30))
        net.fit(np.zeros((n_rows, 9)), t, optimizer=fastbp.SGD(1.0), batch_size=n_rows, steps=1)
        f, slope = (function(np.zeros(1)) for function in TEXTBOOK_ACTIVATION[activation])
        delta = 2 * (f * weight.sum(axis=0) - 1) / 30  # the mean over rows that are all alike
        k, scale = width + 30, np.abs(delta).max() * np.abs(weight).max()
        assert_close(net.biases[0], -slope * (weight @ delta), dtype, k, scale)
        assert_close(net.weights[1], weight - f * delta, dtype, k, scale)
        assert not net.weights[0].any()


def padding(net):
    """Where `net.params` holds nothing real."""
    mask = np.ones(net.params.shape, bool)
    for view in net._spec.views(mask):
        view[...] = False
    return mask


def bits(*results):
    return b"".join(np.asarray(result).tobytes() for result in results)


def verb_predict(net, X, y, rule):
    return bits(net.predict(X))


def verb_evaluate(net, X, y, rule):
    return bits(net.evaluate(X, y, loss="softmax_cross_entropy"))


def verb_loss_and_grad(net, X, y, rule):
    return bits(*net.loss_and_grad(X, y, loss="softmax_cross_entropy"))


def verb_fit(net, X, y, rule):
    history = net.fit(X, y, loss="softmax_cross_entropy", optimizer=rule, batch_size=5, epochs=3)
    return bits(history.loss)


def verb_train_step(net, X, y, rule):
    return bits(*(net.train_step(X, y, loss="softmax_cross_entropy", optimizer=rule) for _ in range(3)))


def verb_update(net, X, y, rule):
    out = net.forward(X)
    grad_input = net.backward(out)
    net.forward(X)
    grad_input += net.backward(out, accumulate=True)
    gradients = [view.copy() for view in (*net.grad_weights, *net.grad_biases)]
    net.update(rule)
    return bits(out, grad_input, *gradients)


def verb_backward_update(net, X, y, rule):
    return bits(*(net.backward_update(net.forward(X), rule) for _ in range(3)))


VERBS = [verb_predict, verb_evaluate, verb_loss_and_grad, verb_fit, verb_train_step, verb_update, verb_backward_update]


AROUND_IT = {"clip_norm": 0.1, "clip_value": 0.1, "l1": 0.1, "max_norm": 0.5, "average": 0.9}


@pytest.mark.parametrize("settings", [*OPTIMIZERS, AROUND_IT], ids=name_of_rule)
@pytest.mark.parametrize("verb", VERBS)
def test_padding_filled_with_nan_changes_no_bit(verb, settings, kernels, dtype):
    rng = np.random.default_rng(0)
    shapes = [(3, 5, 2), (9, 17, 33, 10), (40, 1, 3), (2, 65, 7), (4, 9, 70), (7, 4)]
    for sizes, activation in itertools.product(shapes, ["sigmoid", "relu"]):
        X, y = rng.normal(size=(11, sizes[0])), rng.integers(0, sizes[-1], 11)  # the last batch has one row
        results = []
        for filled in (False, True):
            net = fastbp.MLP(sizes, activation=activation, dtype=dtype, seed=6, backend=kernels)
            empty = padding(net)
            assert empty.sum() == net.params.size - net.n_params > 0
            if filled:
                net.params[empty] = np.nan
                net.grads[empty] = np.nan
            found = verb(net, X, y, fastbp.SGD(lr=0.1, **settings))
            results.append(found + bits(net.flatten()))
            assert np.isfinite(net.flatten()).all()
        assert results[0] == results[1], (sizes, activation)


@pytest.mark.parametrize("sizes", [(3, 5, 2), (6, 4), (40, 33, 3), (9, 70, 20)], ids=str)
def test_a_step_reads_only_its_own_rows(sizes, kernels, dtype):
    rng = np.random.default_rng(2)
    n = 80
    X, t = rng.normal(size=(n, sizes[0])), rng.normal(size=(n, sizes[-1]))
    for batch in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 79):
        dirty = X.copy()
        dirty[batch:] = np.nan
        nets = [fastbp.MLP(sizes, activation="tanh", dtype=dtype, seed=6, backend=kernels) for _ in range(2)]
        for net, rows in zip(nets, (X, dirty)):
            net.fit(rows, t, optimizer=fastbp.SGD(0.1, 0.9), batch_size=batch, steps=1, shuffle=False)
        assert bits(nets[0].flatten()) == bits(nets[1].flatten()), batch


@pytest.mark.parametrize("activation", ["identity", "tanh", "gelu"])
@pytest.mark.parametrize("sizes", [(3, 5, 2), (6, 4), (40, 33, 3), (9, 70, 20)], ids=str)
def test_what_a_call_leaves_behind_reaches_no_later_call(sizes, activation, kernels, dtype):
    """Rows, then fewer rows, through the same workspace; the first are NaN."""
    rng = np.random.default_rng(3)
    X, t = rng.normal(size=(32, sizes[0])), rng.normal(size=(32, sizes[-1]))
    nan, rule = np.full_like(X, np.nan), fastbp.SGD(0.05, 0.9)
    for n in (1, 2, 7, 9, 15, 17, 19, 23, 31):
        found = []
        for dirty in (True, False):
            net = fastbp.MLP(
                sizes, activation=activation, output_activation=activation, dtype=dtype, seed=6, backend=kernels
            )  # fmt: skip
            if dirty:
                capacity = 1 << (n - 1).bit_length()
                net.predict(nan[:capacity])
                net.loss_and_grad(nan[:capacity], t[:capacity], loss="mse")
                with pytest.raises(fastbp.NonFiniteError):
                    net.fit(nan, t, optimizer=rule, batch_size=20, epochs=1, shuffle=False)
            value, gradient = net.loss_and_grad(X[:n], t[:n], loss="mse")
            rows = slice(20 + n % 12)  # a whole batch, and one of n % 12 rows
            history = net.fit(X[rows], t[rows], optimizer=rule, batch_size=20, epochs=2, shuffle=False)
            found.append(bits(net.predict(X[:n]), value, gradient, history.loss, net.flatten()))
        assert found[0] == found[1], n


def test_padding_written_while_training_changes_no_bit(kernels, dtype):
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(11, 6)), rng.normal(size=(11, 3))
    nets = [fastbp.MLP((6, 19, 3), activation="softplus", dtype=dtype, seed=6, backend=kernels) for _ in range(2)]
    for value in (np.nan, np.inf, -1e30):
        nets[1].params[padding(nets[1])] = value
        for net in nets:
            net.fit(X, t, optimizer=fastbp.SGD(0.05, 0.9), batch_size=4, epochs=2)
        assert bits(nets[0].flatten()) == bits(nets[1].flatten())


@pytest.mark.parametrize("width", SIZES_AROUND_TILES)
def test_subnormal_numbers_are_not_flushed(width, kernels, dtype):
    """Forward, gradient and update of inputs below the normal range are those of exact arithmetic."""
    smallest = np.finfo(dtype).smallest_subnormal
    rng = np.random.default_rng(width)
    counts = rng.integers(-1000, 1000, (7, width))
    X = (counts * smallest).astype(dtype)
    assert np.abs(X).max() < np.finfo(dtype).tiny and (X != 0).any()
    weight = rng.integers(-8, 9, (width, 5)).astype(dtype)
    net = fastbp.MLP((width, 5), bias=False, init=[weight], dtype=dtype, backend=kernels)
    out = net.forward(X)
    exact = counts @ weight.astype(np.int64)
    assert np.array_equal(out, (exact * smallest).astype(dtype)) and (out != 0).any()
    G = rng.integers(-8, 9, (7, 5))
    net.backward(G)
    assert np.array_equal(net.grad_weights[0], ((counts.T @ G) * smallest).astype(dtype))
    net.weights[0][...] = 0
    net.update(fastbp.SGD(lr=1.0))
    assert np.array_equal(net.weights[0], -((counts.T @ G) * smallest).astype(dtype)) and net.weights[0].any()


@pytest.mark.parametrize("k", [2, 3, 8, 10, 17, 33, 100])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_softmax_holds_at_large_logits(size, k, kernels, dtype):
    """A row's gradient is probabilities less targets: it sums to 0."""
    rng = np.random.default_rng(k)
    z = rng.choice([-1, 1], (20, k)) * size * (1 + rng.integers(0, 4, (20, k)) / 2**10)
    z[0], z[1], z[2, :] = size, -size, -size
    z[2, 0] = size
    labels = rng.integers(0, k, 20)
    labels[2] = k - 1
    net = fastbp.MLP((20, k), bias=False, init=[z], dtype=dtype, backend=kernels)
    value, gradient = net.loss_and_grad(np.eye(20), labels, loss="softmax_cross_entropy")
    gradient = gradient.reshape(20, k).astype(float) * 20
    assert np.isfinite(value) and np.isfinite(gradient).all()
    z = z.astype(dtype).astype(float)
    assert_close(value, cross_entropy(z, one_hot(labels, k)).mean(), dtype, k, scale=size)
    assert_close(gradient.sum(axis=1), np.zeros(20), dtype, k, scale=1)
    assert_close(gradient, softmax(z) - np.eye(k)[labels], dtype, k, scale=1)


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_binary_cross_entropy_holds_at_large_logits(size, kernels, dtype):
    z, t = size * np.array([[1, -1, 1, -1, 0, 1, -1]]), np.array([[1, 0, 0, 1, 0.5, 0.25, 0.25]])
    net = fastbp.MLP((1, 7), bias=False, init=[z], dtype=dtype, backend=kernels)
    value, gradient = net.loss_and_grad([[1.0]], t, loss="binary_cross_entropy")
    assert_close(value, TEXTBOOK_LOSS["binary_cross_entropy"][0](z, t)[0], dtype, k=7)
    assert_close(gradient, TEXTBOOK_LOSS["binary_cross_entropy"][1](z, t)[0], dtype)


@pytest.mark.parametrize("level", [0.0, 3.25, -100.0, 1e4, -1e4])
@pytest.mark.parametrize("k", [2, 3, 10, 33, 1000])
def test_uniform_logits_cost_the_logarithm_of_their_number(k, level, kernels, dtype):
    net = fastbp.MLP((1, k), init=[(np.zeros((1, k)), np.full(k, level))], dtype=dtype, backend=kernels)
    for n in (1, 5):
        labels = np.arange(n) % k
        got = net.evaluate(np.zeros((n, 1)), labels, loss="softmax_cross_entropy")
        assert_close(got, math.log(k), dtype)
        assert net.loss_and_grad(np.zeros((n, 1)), labels, loss="softmax_cross_entropy")[0] == got


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=name_of_rule)
def test_fit_is_forward_backward_update(settings, kernels, dtype):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(30, 21)), rng.normal(size=(30, 5))
    nets = [fastbp.MLP((21, 34, 17, 5), activation="tanh", dtype=dtype, seed=4, backend=kernels) for _ in range(2)]
    rule = fastbp.SGD(lr=0.1, **settings)
    nets[0].fit(X, t, loss="half_squared_error", optimizer=rule, batch_size=8, epochs=2, shuffle=False)
    for start in [0, 8, 16, 24] * 2:
        rows = slice(start, start + 8)
        out = nets[1].forward(X[rows])
        nets[1].backward((out - t[rows]) / len(out))
        nets[1].update(rule)
    assert_close(nets[0].flatten(), nets[1].flatten(), dtype, k=8)
