"""The benchmark: workloads are rows, contenders are functions, and results must agree before anything is timed.

A contender takes a problem (a workload with its data and initial weights) and gives two functions: ``run(steps)``
trains on, batch after batch in order, and returns when the work is done; ``weights()`` are the weights then. Peers are
optional and imported on first use; one that is missing is skipped with a line.

``python -m fastbp bench`` is the quick form, with ``--full`` every cell and peer.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fastbp import checks
from fastbp.inspection.explain import flops
from fastbp.mlp import MLP
from fastbp.optimizers import SGD, Adam

LR = 1e-3
RULES = {"sgd": SGD(LR), "adam": Adam(LR)}


@dataclass(frozen=True)
class Workload:
    """One cell: a network, in plain SGD on rows in order unless told."""

    sizes: tuple[int, ...]
    batch: int
    activation: str
    loss: str
    rows: int
    bias: bool = True
    optimizer: str = "sgd"  # a name of `RULES`
    precision: str = "float32"  # of the products of a step
    shuffle: bool = False  # rows in an order drawn anew for each epoch

    @property
    def name(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        if len(set(self.sizes)) == 1:
            sizes = f"{self.sizes[0]}x{len(self.sizes) - 1}"
        more = [word for word in (self.optimizer, self.precision) if word not in ("sgd", "float32")]
        more += ["shuffled"] * self.shuffle
        return " ".join([sizes, f"b{self.batch}", *more])

    @property
    def mathematics(self) -> str:
        return f"{self.activation}, {'softmax CE' if self.loss == _CE else self.loss}"

    @property
    def flops(self) -> float:
        """Multiplications and additions of a step's matrix products."""
        return float(sum(flops(self.sizes, self.batch)))


_CE = "softmax_cross_entropy"
WORKLOADS = (
    Workload((2, 3, 1), 8, "identity", "mse", 32, bias=False),
    Workload((4, 16, 16, 1), 16, "tanh", "mse", 1024),
    Workload((8, 64, 64, 4), 32, "tanh", "mse", 4096),
    Workload((64, 32, 10), 32, "relu", _CE, 1792),
    Workload((32, 128, 128, 1), 128, "relu", "mse", 8192),
    Workload((784, 128, 10), 32, "relu", _CE, 8192),
    Workload((784, 128, 10), 128, "relu", _CE, 8192),
    Workload((784, 512, 512, 10), 128, "relu", _CE, 8192),
    Workload((1024,) * 4, 1, "relu", "mse", 512),
    Workload((1024,) * 4, 16, "relu", "mse", 2048),
    Workload((1024,) * 4, 512, "relu", "mse", 4096),
)

_NAMED = {workload.name: workload for workload in WORKLOADS}
# Some of these in another way: further rows of the table.
VARIANTS = (
    *(replace(_NAMED[name], shuffle=True) for name in ("2-3-1 b8", "8-64-64-4 b32", "784-128-10 b32")),
    *(replace(_NAMED[name], optimizer="adam") for name in ("8-64-64-4 b32", "784-128-10 b32", "1024x3 b512")),
    *(replace(_NAMED[name], precision="bfloat16") for name in
      ("784-128-10 b32", "784-128-10 b128", "784-512-512-10 b128", "1024x3 b16", "1024x3 b512")),
)  # fmt: skip

ALL = WORKLOADS + VARIANTS

_BASE = Workload((32, 64, 64, 1), 32, "relu", "mse", 2048)
# Along an axis one thing of that network changes: what it is -> the network.
GROWTH = {
    "width": {w: replace(_BASE, sizes=(32, w, w, 1)) for w in (4, 16, 64, 256, 1024)},
    "batch": {b: replace(_BASE, batch=b) for b in (1, 8, 32, 128, 512)},
    "depth": {d: replace(_BASE, sizes=(32, *[64] * d, 1)) for d in (1, 2, 4, 8)},
}


class Problem:
    """A workload with data and initial weights, the same for every contender, and the threads that each may use."""

    def __init__(self, workload: Workload, dtype: str = "float32", n_threads: int = 1) -> None:
        rng = np.random.default_rng(1)
        self.workload, self.dtype, self.n_threads = workload, np.dtype(dtype), n_threads
        sizes = workload.sizes
        self.X = rng.normal(size=(workload.rows, sizes[0])).astype(dtype)
        if workload.loss == _CE:
            self.y = rng.integers(0, sizes[-1], workload.rows)
        else:
            self.y = rng.normal(size=(workload.rows, sizes[-1])).astype(dtype)
        pairs = zip(sizes, sizes[1:])
        self.weights = [(rng.normal(size=pair) / math.sqrt(pair[0])).astype(dtype) for pair in pairs]
        self.n_batches = workload.rows // workload.batch

    def network(self, backend: str, dtype: Any = None) -> MLP:
        w, dtype = self.workload, np.dtype(dtype or self.dtype)
        precision: Any = w.precision if dtype == np.float32 else "float32"
        return MLP(w.sizes, activation=w.activation, bias=w.bias, dtype=dtype, init=self.weights, seed=0,
                   backend=backend, matmul_precision=precision)  # fmt: skip

    def needs_float32(self) -> None:
        """Whether a contender that has no products in bfloat16 is to be left out: NotImplementedError."""
        if self.workload.precision != "float32":
            raise NotImplementedError("it has no products in bfloat16")


class Batches:
    """The rows of a problem's batches, one after another, for a contender that has its own loop.

    `rows` gives a slice each time; of a workload that shuffles, numbers of rows in the order of `draw`, which is called
    for each epoch: the contender's own way to permute so many numbers.
    """

    def __init__(self, problem: Problem, draw: Callable[[int], Any] | None = None) -> None:
        self.step = 0
        self._n_batches, self._size, self._n_rows = problem.n_batches, problem.workload.batch, problem.workload.rows
        self._draw = (draw or np.random.default_rng(0).permutation) if problem.workload.shuffle else None
        self._order: Any = None
        self._first: Any = None

    def rows(self) -> Any:
        start = self.step % self._n_batches * self._size
        self.step += 1
        rows = slice(start, start + self._size)
        if self._draw is None:
            return rows
        if start == 0:
            self._order = self._draw(self._n_rows)
            self._first = self._order if self._first is None else self._first
        return self._order[rows]

    def first(self) -> np.ndarray | None:
        """The order of the first epoch, or None where that is the data's own."""
        return None if self._first is None else np.asarray(self._first)


class Contender(NamedTuple):
    run: Callable[[int], Any]
    weights: Callable[[], list[np.ndarray]]
    # Of the rows in its first epoch, once it has run; None: the workload's own, which is that of fastbp on any backend
    # where the workload shuffles.
    order: Callable[[], np.ndarray | None] = lambda: None


def fastbp_alone(problem: Problem) -> Contender:
    """One thread, however many the others have: measured in the same rounds, so that the gain is not the machine's."""
    return fastbp_cython(problem, n_threads=1)


def fastbp_cython(problem: Problem, backend: str = "cython", n_threads: int | None = None) -> Contender:
    net, w = problem.network(backend), problem.workload
    how = {"loss": w.loss, "optimizer": RULES[w.optimizer], "batch_size": w.batch, "shuffle": w.shuffle}
    how["n_threads"] = n_threads or problem.n_threads
    return Contender(lambda steps: net.fit(problem.X, problem.y, steps=steps, **how), lambda: list(net.weights))


def fastbp_numba(problem: Problem) -> Contender:
    """The same network on the other compiled backend, on one thread."""
    import numba  # noqa: F401 - skipped where it is not installed

    problem.needs_float32()
    return fastbp_cython(problem, "numba")


def numpy_by_hand(problem: Problem) -> Contender:
    """What one writes in NumPy: `@`, in place, nothing general."""
    problem.needs_float32()
    w = problem.workload
    weights = [weight.copy() for weight in problem.weights]
    biases = [np.zeros(weight.shape[1], problem.dtype) for weight in weights]
    slots = [np.zeros((2, *p.shape), problem.dtype) for p in (*weights, *biases)]
    batches = Batches(problem)
    forward = {"identity": lambda z: z, "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[w.activation]
    derivative = {"identity": lambda a: 1, "tanh": lambda a: 1 - a * a, "relu": lambda a: a > 0}[w.activation]

    def update(p: np.ndarray, g: np.ndarray, slot: np.ndarray) -> None:
        if w.optimizer == "sgd":
            p -= problem.dtype.type(LR) * g
            return
        (beta1, beta2), eps, t = RULES["adam"].betas, RULES["adam"].eps, batches.step
        mean, square = slot
        mean *= beta1
        mean += (1 - beta1) * g
        square *= beta2
        square += (1 - beta2) * g * g
        p -= LR / (1 - beta1**t) * mean / (np.sqrt(square) * (1 / math.sqrt(1 - beta2**t)) + eps)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = batches.rows()
            a = [problem.X[rows]]
            for k, weight in enumerate(weights):
                z = a[-1] @ weight + biases[k] if w.bias else a[-1] @ weight
                a.append(forward(z) if k < len(weights) - 1 else z)
            if w.loss == _CE:
                delta = np.exp(a[-1] - a[-1].max(axis=1, keepdims=True))
                delta /= delta.sum(axis=1, keepdims=True)
                delta[np.arange(w.batch), problem.y[rows]] -= 1
                delta /= w.batch
            else:
                delta = (a[-1] - problem.y[rows]) * problem.dtype.type(2 / a[-1].size)
            for k in reversed(range(len(weights))):
                below = (delta @ weights[k].T) * derivative(a[k]) if k else None
                update(weights[k], a[k].T @ delta, slots[k])
                if w.bias:
                    update(biases[k], delta.sum(axis=0), slots[len(weights) + k])
                delta = below

    return Contender(run, lambda: weights, batches.first)


def scikit_learn(problem: Problem) -> Contender:
    """`partial_fit`, a step a call. It always has biases and halves the squared error: lr is scaled to match."""
    import warnings

    import sklearn
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    w = problem.workload
    problem.needs_float32()
    if not w.bias:
        raise NotImplementedError("it has no network without biases")
    if w.optimizer == "adam":
        raise NotImplementedError("its Adam adds eps before the correction of the second moment")
    kind = MLPClassifier if w.loss == _CE else MLPRegressor
    lr = LR if w.loss == _CE else 2 * LR / w.sizes[-1]
    net = kind(hidden_layer_sizes=w.sizes[1:-1], activation=w.activation, solver="sgd", alpha=0, batch_size=w.batch,
               learning_rate_init=lr, momentum=0, nesterovs_momentum=False, shuffle=False)  # fmt: skip
    first = {"classes": np.arange(w.sizes[-1])} if w.loss == _CE else {}
    y = problem.y.ravel() if w.sizes[-1] == 1 else problem.y
    with warnings.catch_warnings(action="ignore"):  # one step has not converged
        net.partial_fit(problem.X[: w.batch], y[: w.batch], **first)
    for k, weight in enumerate(problem.weights):
        net.coefs_[k][...] = weight
        net.intercepts_[k][...] = 0
    batches = Batches(problem)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = batches.rows()
            with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
                net.partial_fit(problem.X[rows], y[rows])

    return Contender(run, lambda: net.coefs_, batches.first)


def _torch(problem: Problem, compiled: bool) -> Contender:
    import torch

    torch.set_num_threads(problem.n_threads)
    w = problem.workload
    layers: list[torch.nn.Module] = []
    for k, weight in enumerate(problem.weights):
        linear = torch.nn.Linear(*weight.shape, bias=w.bias, dtype=torch.from_numpy(weight).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            if w.bias:
                linear.bias.zero_()
        layers.append(linear)
        if k < len(problem.weights) - 1 and w.activation != "identity":
            layers.append({"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[w.activation]())
    net = torch.nn.Sequential(*layers)
    optimizer = {  # `fused` is torch's fastest
        "sgd": lambda p: torch.optim.SGD(p, lr=LR), "adam": lambda p: torch.optim.Adam(p, lr=LR, fused=True)
    }[w.optimizer](net.parameters())  # fmt: skip
    loss_of = torch.nn.functional.cross_entropy if w.loss == _CE else torch.nn.functional.mse_loss
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
    batches = Batches(problem, torch.randperm)

    def step(x: Any, t: Any) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=w.precision == "bfloat16"):
            loss = loss_of(net(x), t)
        loss.backward()
        optimizer.step()

    if compiled:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise NotImplementedError("it needs a C++ compiler")
        torch.compiler.reset()  # or the ninth network would run uncompiled
        step = torch.compile(step)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = batches.rows()
            step(X[rows], y[rows])

    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    return Contender(run, lambda: [layer.weight.detach().numpy().T for layer in linears], batches.first)


def torch_eager(problem: Problem) -> Contender:
    return _torch(problem, compiled=False)


def torch_compile(problem: Problem) -> Contender:
    return _torch(problem, compiled=True)


def _jax(problem: Problem, scan: bool) -> Contender:
    if problem.n_threads == 1:  # no second thread pool; to be set before JAX starts
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import jax.numpy as jnp

    if problem.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    w = problem.workload
    act = {"identity": lambda z: z, "tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0)}[w.activation]
    sums: Any = None if w.precision == "float32" else jnp.float32  # dtype of what is added up

    def product(a: Any, weight: Any) -> Any:
        if sums is not None:
            a, weight = a.astype(w.precision), weight.astype(w.precision)
        return jnp.matmul(a, weight, preferred_element_type=sums)

    def loss(params: Any, x: Any, t: Any) -> Any:
        a = x
        for k, (weight, bias) in enumerate(params):
            a = product(a, weight) + bias if w.bias else product(a, weight)
            if k < len(params) - 1:
                a = act(a)
        if w.loss == _CE:
            return jnp.mean(jax.nn.logsumexp(a, axis=1) - jnp.take_along_axis(a, t[:, None], axis=1)[:, 0])
        return jnp.mean((a - t) ** 2)

    if w.optimizer == "sgd":

        def update(state: Any, x: Any, t: Any) -> Any:
            gradient = jax.grad(loss)(state[0], x, t)
            return jax.tree_util.tree_map(lambda p, g: p - LR * g, state[0], gradient), state[1]

        initial = lambda params: ()  # noqa: E731
    else:
        import optax

        rule = {"adam": optax.adam}[w.optimizer](LR)
        initial = rule.init

        def update(state: Any, x: Any, t: Any) -> Any:
            step, slots = rule.update(jax.grad(loss)(state[0], x, t), state[1])
            return optax.apply_updates(state[0], step), slots

    n = problem.n_batches
    X, y = jnp.asarray(problem.X[: n * w.batch]), jnp.asarray(problem.y[: n * w.batch])
    cut = lambda rows: rows.reshape((n, w.batch) + rows.shape[1:])  # noqa: E731
    epochs = jax.random.key(0)

    def drawn(epoch: Any) -> Any:
        """The numbers of the rows of each batch of an epoch."""
        return cut(jax.random.permutation(jax.random.fold_in(epochs, epoch), n * w.batch))

    if w.shuffle:
        batch = lambda order, b: (X[order[b]], y[order[b]])  # noqa: E731
    else:
        in_order = cut(X), cut(y)
        batch = lambda order, b: (in_order[0][b], in_order[1][b])  # noqa: E731
    params = [(jnp.asarray(weight), jnp.zeros(weight.shape[1], problem.dtype)) for weight in problem.weights]
    state = {"trained": (params, initial(params)), "step": 0, "order": None}
    one = jax.jit(update, donate_argnums=0)
    one_shuffled = jax.jit(lambda trained, order, b: update(trained, *batch(order, b)), donate_argnums=0)
    draw = jax.jit(drawn)
    # cutting these out costs more than a small step
    batches = [] if scan or w.shuffle else [batch(None, b) for b in range(n)]

    def run_steps(steps: int) -> None:
        for _ in range(steps):
            epoch, b = divmod(state["step"], n)
            if w.shuffle:
                if b == 0:
                    state["order"] = draw(epoch)
                state["trained"] = one_shuffled(state["trained"], state["order"], b)
            else:
                state["trained"] = one(state["trained"], *batches[b])
            state["step"] += 1
        jax.block_until_ready(state["trained"])

    compiled: dict[int, Any] = {}

    def run_scan(steps: int) -> None:
        if steps not in compiled:

            def whole(trained: Any, start: Any) -> Any:
                def body(carry: Any, k: Any) -> Any:
                    trained, order = carry
                    epoch, b = (start + k) // n, (start + k) % n
                    if w.shuffle:
                        order = jax.lax.cond(b == 0, lambda: drawn(epoch), lambda: order)
                    return (update(trained, *batch(order, b)), order), None

                order = drawn(start // n) if w.shuffle else None
                return jax.lax.scan(body, (trained, order), jnp.arange(steps))[0][0]

            compiled[steps] = jax.jit(whole).lower(state["trained"], 0).compile()
        state["trained"] = jax.block_until_ready(compiled[steps](state["trained"], state["step"]))
        state["step"] += steps

    return Contender(
        run_scan if scan else run_steps,
        lambda: [np.asarray(weight) for weight, _ in state["trained"][0]],
        lambda: np.asarray(draw(0)).ravel() if w.shuffle else None,
    )


def jax_step(problem: Problem) -> Contender:
    return _jax(problem, scan=False)


def jax_scan(problem: Problem) -> Contender:
    """The whole run jitted. `measure` calls it with the run's length once before it times, which compiles it."""
    return _jax(problem, scan=True)


def tensorflow_v1(problem: Problem) -> Contender:
    """Graph and session, as the original BP program."""
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    w = problem.workload
    problem.needs_float32()
    if w.optimizer != "sgd":
        raise NotImplementedError("only with plain SGD, as in the original program")
    graph = tf.Graph()
    with graph.as_default():
        x = tf.placeholder(problem.dtype.name, (None, w.sizes[0]))
        t = tf.placeholder("int64" if w.loss == _CE else problem.dtype.name, (None,) + problem.y.shape[1:])
        a, weights = x, []
        for k, weight in enumerate(problem.weights):
            weights.append(tf.Variable(weight))
            a = a @ weights[-1]
            if w.bias:
                a = a + tf.Variable(np.zeros(weight.shape[1], problem.dtype))
            if k < len(problem.weights) - 1 and w.activation != "identity":
                a = getattr(tf.nn, w.activation)(a)
        if w.loss == _CE:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=t, logits=a))
        else:
            loss = tf.reduce_mean(tf.square(a - t))
        train = tf.train.GradientDescentOptimizer(LR).minimize(loss)
        initial = tf.global_variables_initializer()
    threads = tf.ConfigProto(intra_op_parallelism_threads=problem.n_threads, inter_op_parallelism_threads=1)
    session = tf.Session(graph=graph, config=threads)
    session.run(initial)
    batches = Batches(problem)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = batches.rows()
            session.run(train, feed_dict={x: problem.X[rows], t: problem.y[rows]})

    return Contender(run, lambda: session.run(weights), batches.first)


CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    "fastbp": fastbp_cython,
    "fastbp numba": fastbp_numba,
    "numpy": numpy_by_hand,
    "sklearn": scikit_learn,
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "jax step": jax_step,
    "jax scan": jax_scan,
    "tf.v1": tensorflow_v1,
}


def cells(numbers: str) -> tuple[Workload, ...]:
    """Workloads by their numbers, as ``0,3,5``.

    Raises
    ------
    ValueError
        There is no such cell.
    """
    known = {str(k): workload for k, workload in enumerate(ALL)}
    return tuple(known[checks.choice("cells", number, known)] for number in numbers.split(","))


def contenders(names: str) -> tuple[str, ...]:
    """Names of contenders, as ``numpy,jax scan``; fastbp is always the first.

    Raises
    ------
    ValueError
        There is no such contender.
    """
    wanted = (checks.choice("contenders", name, CONTENDERS) for name in names.split(","))
    return tuple(dict.fromkeys(["fastbp", *wanted]))


# ------------------------------------------------------------------ checking and timing
