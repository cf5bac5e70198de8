"""The same loops around the same small network, by fastbp and by its peers: what the lines of `bench_calls.py` call.

A contender is a function that takes the data and gives names: arrays as it wants to have them, and functions. Peers are
written as somebody who knows them would write them for speed: nothing general, memory that is made once, tensors that
need no conversion. One that is not installed is an ImportError.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastbp

SIZES, ROWS, FEW, LISTED = (4, 64, 64, 2), 64, 8, 1000
CALLS = 32  # that the statement of a line makes, unless it says so: the length of the lists below
DISTINCT = 8  # batches; a loop of one's own has new arrays at each call
LR, RATE_OF_ADAM, CLIP, ACCUMULATE, DROPOUT, DECAY_STEPS, HUBER = 0.01, 0.001, 0.1, 4, 0.25, 10**7, 1.0
FRESH = 300  # networks that make their first call
LOSSES = ("mse", "mae", "huber")

Names = dict[str, Any]


class Data:
    """Rows, targets, weights, gradients of outputs and initial parameters, the same for every contender."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        single = partial(np.asarray, dtype=np.float32)
        self.X = single(rng.normal(size=(LISTED * FEW, SIZES[0])))
        self.y = single(rng.normal(size=(LISTED * FEW, SIZES[-1])))
        self.weight = single(rng.uniform(0.5, 1.5, ROWS))
        self.grad = single(rng.normal(size=(ROWS, SIZES[-1])) / ROWS)
        pairs = zip(SIZES, SIZES[1:])
        self.parameters = [
            (single(rng.normal(size=(n, m)) / math.sqrt(n)), single(rng.normal(size=m) / 10)) for n, m in pairs
        ]

    @property
    def flat(self) -> np.ndarray:
        """The initial parameters in the order of `MLP.flatten`."""
        return np.concatenate([array.ravel() for layer in self.parameters for array in layer])

    def names(self, to: Callable[[np.ndarray], Any]) -> Names:
        """The arrays, as `to` makes them; those of float64 are NumPy's, and the lists Python's, for every contender."""
        X = [self.X[k * ROWS : (k + 1) * ROWS] for k in range(DISTINCT)]
        y = [self.y[k * ROWS : (k + 1) * ROWS] for k in range(DISTINCT)]
        over = [(to(X[k % DISTINCT]), to(y[k % DISTINCT])) for k in range(CALLS)]
        ones = [self.X[k : k + 1] for k in range(CALLS)]
        sizes = [to(self.X[: k + 1]) for k in range(CALLS)]
        small = [slice(k * FEW, (k + 1) * FEW) for k in range(LISTED)]
        weight, grad = to(self.weight), to(self.grad)
        return {
            "batches": over,
            "two_sizes": [(x[: ROWS // 2], t[: ROWS // 2]) if k % 2 else (x, t) for k, (x, t) in enumerate(over)],
            "weighted": [(x, t, weight) for x, t in over],
            # each batch once with its gradient and once against it: so no loop diverges
            "gradients": [(x, -grad if k // DISTINCT % 2 else grad) for k, (x, _) in enumerate(over)],
            "batches64": [(X[k % DISTINCT].astype(float), y[k % DISTINCT].astype(float)) for k in range(CALLS)],
            "ones": [to(x) for x in ones],
            "ones64": [x.astype(float) for x in ones],
            "lists": [x.tolist() for x in ones],
            "sizes": sizes,
            "repeated": [x for x in sizes for _ in range(CALLS)],
            "small": [(to(self.X[rows]), to(self.y[rows])) for rows in small],
            "times": range(CALLS),
        }


def fastbp_calls(data: Data, backend: str = "cython", dtype: Any = np.float32) -> Names:
    """The library itself; the statements of the lines say how it is called."""
    make = partial(fastbp.MLP, SIZES, dtype=dtype, seed=0, backend=backend)
    net, dropping = make(init=data.parameters), make(init=data.parameters, dropout=DROPOUT)
    names = data.names(lambda array: array)
    sgd, adam = fastbp.SGD(LR), fastbp.Adam(RATE_OF_ADAM)
    x, y = names["batches"][0]

    def fresh(rows: int = 0) -> list[fastbp.MLP]:
        """Networks that have called nothing yet, or that have made a step of so many rows."""
        nets = [make(init=data.parameters) for _ in range(FRESH)]
        for one in nets if rows else ():
            one.train_step(x[:rows], y[:rows], loss="mse", optimizer=sgd)
        return nets

    return names | {
        "net": net, "dropping": dropping, "other": make(init=data.parameters), "make": make, "fresh": fresh,
        "x": x, "y": y, "X": data.X, "Y": data.y, "SGD": fastbp.SGD, "sgd": sgd, "adam": adam,
        "clipped": fastbp.SGD(LR, clip_norm=CLIP), "accumulated": fastbp.SGD(LR, accumulate=ACCUMULATE),
        "scheduled": fastbp.SGD(fastbp.schedules.Cosine(LR, DECAY_STEPS)),
        "losses": [(x, t, LOSSES[k % len(LOSSES)]) for k, (x, t) in enumerate(names["batches"])],
        "optimizers": [(x, t, (sgd, adam, "adam")[k % 3]) for k, (x, t) in enumerate(names["batches"])],
        "params": lambda: [one.flatten() for one in (net, dropping)],
    }  # fmt: skip


def numpy_by_hand(data: Data) -> Names:
    """One vector of parameters and one of gradients, whose parts are the layers': so an update is a few calls."""
    p, g = data.flat, np.zeros_like(data.flat)
    mean, square, summed = (np.zeros_like(p) for _ in range(3))
    state = {"step": 0, "adam": 0}

    def parts(vector: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([size for n, m in zip(SIZES, SIZES[1:]) for size in (n * m, m)])
        shapes = [shape for n, m in zip(SIZES, SIZES[1:]) for shape in ((n, m), (m,))]
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes)]

    w1, b1, w2, b2, w3, b3 = parts(p)
    gw1, gb1, gw2, gb2, gw3, gb3 = parts(g)
    hidden = {n: [np.empty((n, m), np.float32) for m in (*SIZES[1:3], *SIZES[1:3])] for n in range(1, ROWS + 1)}
    masked = {n: [np.empty((n, m), bool) for m in SIZES[1:3]] for n in range(1, ROWS + 1)}

    def predict(x: np.ndarray) -> np.ndarray:
        a1, a2, _, _ = hidden[len(x)]
        np.matmul(x, w1, out=a1)
        np.add(a1, b1, out=a1)
        np.maximum(a1, 0, out=a1)
        np.matmul(a1, w2, out=a2)
        np.add(a2, b2, out=a2)
        np.maximum(a2, 0, out=a2)
        z = a2 @ w3
        z += b3
        return z

    def backward(x: np.ndarray, delta: np.ndarray) -> None:
        """Fills `g`; the outputs of the layers are those of the last `predict`."""
        a1, a2, d1, d2 = hidden[len(x)]
        on1, on2 = masked[len(x)]
        np.matmul(a2.T, delta, out=gw3)
        np.add.reduce(delta, axis=0, out=gb3)
        np.matmul(delta, w3.T, out=d2)
        np.multiply(d2, np.greater(a2, 0, out=on2), out=d2)
        np.matmul(a1.T, d2, out=gw2)
        np.add.reduce(d2, axis=0, out=gb2)
        np.matmul(d2, w2.T, out=d1)
        np.multiply(d1, np.greater(a1, 0, out=on1), out=d1)
        np.matmul(x.T, d1, out=gw1)
        np.add.reduce(d1, axis=0, out=gb1)

    def squares(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        d = predict(x)
        d -= y
        flat = d.ravel()
        value = float(flat @ flat) / d.size
        d *= 2 / d.size
        return value, d

    def absolute(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        d = predict(x)
        d -= y
        return float(np.abs(d).sum()) / d.size, np.sign(d) / np.float32(d.size)

    def huber(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        d = predict(x)
        d -= y
        near = np.clip(d, -HUBER, HUBER)
        value = float((near * (d - 0.5 * near)).sum()) / d.size
        near /= d.size
        return value, near

    def sgd(lr: float = LR) -> None:
        np.multiply(g, lr, out=g)
        np.subtract(p, g, out=p)

    def stepped(loss: Callable[..., tuple[float, np.ndarray]], x: np.ndarray, y: np.ndarray) -> float:
        value, delta = loss(x, y)
        backward(x, delta)
        sgd()
        return value

    step = partial(stepped, squares)

    def weighted(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
        d = predict(x)
        d -= y
        total = float(w.sum()) * d.shape[1]
        wd = d * w[:, None]
        value = float(wd.ravel() @ d.ravel()) / total
        wd *= 2 / total
        backward(x, wd)
        sgd()
        return value

    def adam(x: np.ndarray, y: np.ndarray) -> float:
        value, delta = squares(x, y)
        backward(x, delta)
        state["adam"] += 1
        t, (beta1, beta2) = state["adam"], (0.9, 0.999)
        np.multiply(mean, beta1, out=mean)
        np.add(mean, (1 - beta1) * g, out=mean)
        np.multiply(square, beta2, out=square)
        np.multiply(g, g, out=g)
        np.multiply(g, 1 - beta2, out=g)
        np.add(square, g, out=square)
        np.sqrt(square, out=g)
        np.multiply(g, 1 / math.sqrt(1 - beta2**t), out=g)
        np.add(g, 1e-8, out=g)
        np.divide(mean, g, out=g)
        sgd(RATE_OF_ADAM / (1 - beta1**t))
        return value

    def clipped(x: np.ndarray, y: np.ndarray) -> float:
        value, delta = squares(x, y)
        backward(x, delta)
        norm = math.sqrt(float(g @ g))
        sgd(LR * min(1.0, CLIP / norm))
        return value

    def accumulated(x: np.ndarray, y: np.ndarray) -> float:
        value, delta = squares(x, y)
        backward(x, delta)
        np.add(summed, g, out=summed)
        state["step"] += 1
        if state["step"] % ACCUMULATE == 0:
            np.copyto(g, summed)
            sgd(LR / ACCUMULATE)
            summed.fill(0)
        return value

    def scheduled(x: np.ndarray, y: np.ndarray) -> float:
        value, delta = squares(x, y)
        backward(x, delta)
        sgd(cosine(state["step"]))
        state["step"] += 1
        return value

    def backward_update(x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        out = predict(x)
        backward(x, grad)
        sgd()
        return out

    def evaluate(x: np.ndarray, y: np.ndarray) -> float:
        d = predict(x)
        d -= y
        flat = d.ravel()
        return float(flat @ flat) / d.size

    def loss_and_grad(x: np.ndarray, y: np.ndarray) -> float:
        value, delta = squares(x, y)
        backward(x, delta)
        return value

    def proba(x: np.ndarray) -> np.ndarray:
        z = predict(x)
        np.exp(z - z.max(axis=1, keepdims=True), out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    steps = {"mse": step, "mae": partial(stepped, absolute), "huber": partial(stepped, huber)}
    names = data.names(lambda array: array)
    return names | {
        "inference": contextlib.nullcontext, "cast": partial(np.asarray, dtype=np.float32), "predict": predict,
        "proba": proba, "step": step, "step_weighted": weighted, "step_adam": adam, "step_clipped": clipped,
        "step_accumulated": accumulated, "step_scheduled": scheduled, "backward_update": backward_update,
        "evaluate": evaluate, "loss_and_grad": loss_and_grad,
        "losses": _in_turn(names, steps), "params": lambda: [p],
    }  # fmt: skip


def cosine(step: int) -> float:
    """The rate of the scheduled line."""
    return LR / 2 * (1 + math.cos(math.pi * min(step / DECAY_STEPS, 1.0)))


def _in_turn(names: Names, steps: dict[str, Callable[..., Any]]) -> list[tuple[Any, Any, Callable[..., Any]]]:
    """The batches, each with the step of another loss."""
    return [(x, y, steps[LOSSES[k % len(LOSSES)]]) for k, (x, y) in enumerate(names["batches"])]


def _torch(data: Data, compiled: bool) -> Names:
    """Functions of tensors: modules around them cost more."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    if compiled:
        torch.compiler.reset()  # what other lines have compiled counts towards a limit
    params = []
    for weight, bias in data.parameters:
        params += [torch.tensor(weight.T.copy(), requires_grad=True), torch.tensor(bias, requires_grad=True)]
    w1, b1, w2, b2, w3, b3 = params
    target = [param.detach().clone() for param in params]
    state = {"step": 0}
    relu, linear = torch.relu, functional.linear
    kinds = {"mse": functional.mse_loss, "mae": functional.l1_loss}
    kinds |= {"huber": partial(functional.huber_loss, delta=HUBER)}

    def predict(x: Any) -> Any:
        return linear(relu(linear(relu(linear(x, w1, b1)), w2, b2)), w3, b3)

    def dropped(x: Any) -> Any:
        drop = functional.dropout
        return linear(drop(relu(linear(drop(relu(linear(x, w1, b1)), DROPOUT), w2, b2)), DROPOUT), w3, b3)

    def proba(x: Any) -> Any:
        return torch.softmax(predict(x), 1)

    def mse(x: Any, y: Any) -> Any:
        return functional.mse_loss(predict(x), y)

    def of_weights(x: Any, y: Any, w: Any) -> Any:
        return (w[:, None] * (predict(x) - y) ** 2).sum() / (w.sum() * y.shape[1])

    # The fastest forms, of six parameters: microseconds of a step with SGD 331 fused, 330 foreach, 300 neither; with
    # Adam 406, 572, 545; 207 without an optimizer.
    sgd = torch.optim.SGD(params, lr=LR, foreach=False)
    adam = torch.optim.Adam(params, lr=RATE_OF_ADAM, fused=True)
    compile_ = torch.compile if compiled else lambda function: function

    def stepping(loss: Callable[..., Any], optimizer: Any = sgd, before: Callable[[], Any] | None = None) -> Any:
        loss = compile_(loss)

        def step(*batch: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            value = loss(*batch)
            value.backward()
            if before is not None:
                before()
            optimizer.step()
            return value

        return step

    quarter = compile_(lambda x, y: mse(x, y) / ACCUMULATE)

    def accumulated(x: Any, y: Any) -> Any:
        value = quarter(x, y)
        value.backward()
        state["step"] += 1
        if state["step"] % ACCUMULATE == 0:
            sgd.step()
            sgd.zero_grad(set_to_none=True)
        return value * ACCUMULATE

    def scheduled() -> None:
        sgd.param_groups[0]["lr"] = cosine(state["step"])
        state["step"] += 1

    forward = compile_(predict)

    def backward_update(x: Any, grad: Any) -> Any:
        sgd.zero_grad(set_to_none=True)
        out = forward(x)
        out.backward(grad)
        sgd.step()
        return out

    of_value = compile_(mse)

    def loss_and_grad(x: Any, y: Any) -> Any:
        sgd.zero_grad(set_to_none=True)
        value = of_value(x, y)
        value.backward()
        return value

    def make() -> Any:
        n0, n1, n2, n3 = SIZES
        nn = torch.nn
        return nn.Sequential(nn.Linear(n0, n1), nn.ReLU(), nn.Linear(n1, n2), nn.ReLU(), nn.Linear(n2, n3))

    def copy() -> None:
        with torch.no_grad():
            torch._foreach_copy_(target, params)

    def flat() -> np.ndarray:
        arrays = [param.detach().numpy() for param in params]
        return np.concatenate([array.T.ravel() for array in arrays])

    names = data.names(torch.from_numpy)
    steps = {kind: stepping(lambda x, y, of=of: of(predict(x), y)) for kind, of in kinds.items()}
    names |= {
        "inference": torch.inference_mode, "cast": partial(torch.as_tensor, dtype=torch.float32),
        "predict": compile_(predict), "proba": compile_(proba), "step": stepping(mse),
        "step_weighted": stepping(of_weights), "step_adam": stepping(mse, adam),
        "step_clipped": stepping(mse, before=lambda: torch.nn.utils.clip_grad_norm_(params, CLIP, foreach=True)),
        "step_accumulated": accumulated, "step_scheduled": stepping(mse, before=scheduled),
        "step_dropped": stepping(lambda x, y: functional.mse_loss(dropped(x), y)), "backward_update": backward_update,
        "evaluate": of_value, "loss_and_grad": loss_and_grad, "losses": _in_turn(names, steps),
        "params": lambda: [flat()],
    }  # fmt: skip
    return names if compiled else names | {"make": make, "copy": copy}


def torch_eager(data: Data) -> Names:
    return _torch(data, compiled=False)


def torch_compile(data: Data) -> Names:
    """What is compiled is the loss, or the output; its backward pass is with it. Optimizers are called as they are."""
    return _torch(data, compiled=True)


def jax_jitted(data: Data) -> Names:
    """A jitted step whose parameters are donated. A loop waits for what it has predicted, not for a step."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import jax.numpy as jnp
    import optax

    held: Names = {"params": [(jnp.asarray(w), jnp.asarray(b)) for w, b in data.parameters], "step": 0}
    tree = jax.tree_util.tree_map

    def output(params: Any, x: Any) -> Any:
        (w1, b1), (w2, b2), (w3, b3) = params
        return jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3

    def mse(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((output(params, x) - y) ** 2)

    def mae(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean(jnp.abs(output(params, x) - y))

    def huber(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean(optax.losses.huber_loss(output(params, x), y, delta=HUBER))

    def of_weights(params: Any, x: Any, y: Any, w: Any) -> Any:
        return (w[:, None] * (output(params, x) - y) ** 2).sum() / (w.sum() * y.shape[1])

    def dropped(params: Any, x: Any, y: Any, key: Any) -> Any:
        (w1, b1), (w2, b2), (w3, b3) = params
        first, second = jax.random.split(key)

        def drop(a: Any, key: Any) -> Any:
            return a * jax.random.bernoulli(key, 1 - DROPOUT, a.shape) / (1 - DROPOUT)

        a1 = drop(jax.nn.relu(x @ w1 + b1), first)
        return jnp.mean((drop(jax.nn.relu(a1 @ w2 + b2), second) @ w3 + b3 - y) ** 2)

    def sgd(params: Any, grads: Any, lr: Any = LR) -> Any:
        return tree(lambda p, g: p - lr * g, params, grads)

    def stepping(loss: Callable[..., Any]) -> Callable[..., Any]:
        @partial(jax.jit, donate_argnums=0)
        def one(params: Any, *batch: Any) -> Any:
            value, grads = jax.value_and_grad(loss)(params, *batch)
            return sgd(params, grads), value

        def step(*batch: Any) -> Any:
            held["params"], value = one(held["params"], *batch)
            return value

        return step

    def by_optax(rule: Any) -> Callable[..., Any]:
        held[rule] = rule.init(held["params"])

        @partial(jax.jit, donate_argnums=(0, 1))
        def one(params: Any, slots: Any, x: Any, y: Any) -> Any:
            value, grads = jax.value_and_grad(mse)(params, x, y)
            change, slots = rule.update(grads, slots)
            return optax.apply_updates(params, change), slots, value

        def step(x: Any, y: Any) -> Any:
            held["params"], held[rule], value = one(held["params"], held[rule], x, y)
            return value

        return step

    @partial(jax.jit, donate_argnums=0)
    def drop_one(params: Any, key: Any, x: Any, y: Any) -> Any:
        key, now = jax.random.split(key)
        value, grads = jax.value_and_grad(dropped)(params, x, y, now)
        return sgd(params, grads), key, value

    held["key"] = jax.random.key(0)

    def step_dropped(x: Any, y: Any) -> Any:
        held["params"], held["key"], value = drop_one(held["params"], held["key"], x, y)
        return value

    @partial(jax.jit, donate_argnums=0)
    def grad_one(params: Any, x: Any, grad: Any) -> Any:
        out, pull = jax.vjp(lambda p: output(p, x), params)
        return sgd(params, pull(grad)[0]), out

    def backward_update(x: Any, grad: Any) -> Any:
        held["params"], out = grad_one(held["params"], x, grad)
        return out

    forward, softmax = jax.jit(output), jax.jit(lambda params, x: jax.nn.softmax(output(params, x)))
    value_of, both = jax.jit(mse), jax.jit(jax.value_and_grad(mse))
    copied = jax.jit(partial(tree, jnp.copy))

    def copy() -> None:
        held["target"] = copied(held["params"])

    def flat() -> np.ndarray:
        return np.concatenate([np.asarray(array).ravel() for layer in held["params"] for array in layer])

    names = data.names(jnp.asarray)
    step = stepping(mse)
    return names | {
        "inference": contextlib.nullcontext, "cast": partial(np.asarray, dtype=np.float32),
        "predict": lambda x: forward(held["params"], x).block_until_ready(),
        "proba": lambda x: softmax(held["params"], x).block_until_ready(), "step": step,
        "step_weighted": stepping(of_weights), "step_adam": by_optax(optax.adam(RATE_OF_ADAM)),
        "step_clipped": by_optax(optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(LR))),
        "step_accumulated": by_optax(optax.MultiSteps(optax.sgd(LR), ACCUMULATE).gradient_transformation()),
        "step_scheduled": by_optax(optax.sgd(optax.cosine_decay_schedule(LR, DECAY_STEPS))),
        "step_dropped": step_dropped, "backward_update": backward_update,
        "evaluate": lambda x, y: value_of(held["params"], x, y).block_until_ready(),
        "loss_and_grad": lambda x, y: jax.block_until_ready(both(held["params"], x, y))[0],
        "losses": _in_turn(names, {"mse": step, "mae": stepping(mae), "huber": stepping(huber)}),
        "copy": copy, "params": lambda: [flat()],
    }  # fmt: skip


CONTENDERS: dict[str, Callable[[Data], Names]] = {
    "fastbp": fastbp_calls,
    "numpy": numpy_by_hand,
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "jax": jax_jitted,
}
