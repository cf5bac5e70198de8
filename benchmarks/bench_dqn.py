"""A speed bar: deep Q-learning of `examples/dqn.py` takes torch ten times as long, step by step of the cart.

`python benchmarks/bench_dqn.py`. The cart, the memory and the loop are the example's own, and the same for both; what
differs is the learner: act on one row, a training step of 32 rows with targets of the second network, that network's
update. torch is written for speed: functions of tensors that share the memory of NumPy's, fused Adam, inference mode,
eager and compiled. Learners of both make the same steps first, and their parameters are compared.
"""

import math
import os
import runpy
import statistics
import sys
from pathlib import Path

if __name__ == "__main__":  # before NumPy is loaded
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in [name for name in os.environ if name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")]:
        del os.environ[name]  # they would choose the kernels of NumPy

import numpy as np
import pytest
from rounds import median_ratio, seconds_of

from fastbp import backends

dqn = runpy.run_path(str(Path(__file__).resolve().parents[1] / "examples" / "dqn.py"))
STEPS, ROUNDS, CHECKED, AT_LEAST = 1500, 7, 50, 10.0
LEARNERS = {"fastbp, train_step": dqn["Learner"], "fastbp, own gradient": dqn["ByGradient"]}


class Idle:
    """No learner: what is left is the cart, the memory and the loop, which are Python's and NumPy's."""

    def __init__(self, seed):
        pass

    def act(self, state):
        return 0

    def learn(self, batch):
        pass

    def follow(self):
        pass


class Torch:
    """The example's learner by torch."""

    def __init__(self, seed, compiled=False):
        import torch
        from torch.nn import functional

        torch.set_num_threads(1)
        self.torch, self.lr, self.steps = torch, dqn["RATE"].lr, 0
        net = next(iter(LEARNERS.values()))(seed).net
        self.params = []
        for weight, bias in zip(net.weights, net.biases):
            self.params += [torch.tensor(weight.T.copy(), requires_grad=True), torch.tensor(bias, requires_grad=True)]
        self.targets = [param.detach().clone() for param in self.params]
        self.adam = torch.optim.Adam(self.params, lr=1e-3, fused=True)

        def output(x, w1, b1, w2, b2, w3, b3):
            linear, relu = functional.linear, torch.relu
            return linear(relu(linear(relu(linear(x, w1, b1)), w2, b2)), w3, b3)

        def worth(after, reward, goes_on):
            return reward + dqn["GAMMA"] * goes_on * output(after, *self.targets).amax(1)

        def loss(state, chosen, worth):
            return functional.huber_loss((output(state, *self.params) * chosen).sum(1), worth)

        compile_ = torch.compile if compiled else lambda function: function
        self.output, self.worth, self.loss = compile_(output), compile_(worth), compile_(loss)
        self.inference, self.from_numpy = torch.inference_mode, torch.from_numpy

    def act(self, state):
        with self.inference():
            left, right = self.output(self.from_numpy(state), *self.params)[0].tolist()
        return int(right > left)

    def learn(self, batch):
        batch = self.from_numpy(batch)
        with self.torch.no_grad():
            worth = self.worth(batch[:, dqn["NEXT"]], batch[:, dqn["REWARD"]], batch[:, dqn["GOES_ON"]])
        share = min(self.steps / dqn["STEPS"], 1.0)
        self.adam.param_groups[0]["lr"] = self.lr / 2 * (1 + math.cos(math.pi * share))
        self.steps += 1
        self.adam.zero_grad(set_to_none=True)
        self.loss(batch[:, dqn["STATE"]], batch[:, dqn["CHOSEN"]], worth).backward()
        self.adam.step()

    def follow(self):
        with self.torch.no_grad():
            self.torch._foreach_lerp_(self.targets, self.params, dqn["TAU"])

    def flatten(self):
        arrays = [param.detach().numpy() for param in self.params]
        return np.concatenate([array.T.ravel() for array in arrays])


class TorchCompiled(Torch):
    """The outputs and the loss compiled; the optimizer is called as it is."""

    def __init__(self, seed):
        super().__init__(seed, compiled=True)


def remembered(n):
    """A memory of random pushes, as `play` has it."""
    rng, cart = np.random.default_rng(0), dqn["CartPole"](0)
    memory, state = np.zeros((n, 12), np.float32), cart.reset()
    for row in memory:
        push = int(rng.integers(2))
        row[dqn["STATE"]] = state
        state, fell = cart.step(push)
        row[dqn["CHOSEN"]], row[dqn["REWARD"]], row[dqn["GOES_ON"]] = dqn["PUSHES"][push], -fell, not fell
        row[dqn["NEXT"]] = state
        if fell:
            state = cart.reset()
    return memory


def check(kinds):
    """Parameters after the same training steps; the same pushes then.

    Raises
    ------
    ArithmeticError
        A learner computes something else.
    """
    rng, memory = np.random.default_rng(1), remembered(500)
    batches = [memory[rng.integers(500, size=dqn["BATCH"])] for _ in range(CHECKED)]
    flat, first = {}, None
    for name, kind in kinds.items():
        learner = kind(0)
        params = getattr(learner, "net", learner).flatten
        first = params() if first is None else first
        for batch in batches:
            learner.learn(batch)
            learner.follow()
        flat[name] = params(), [learner.act(row[None, dqn["STATE"]]) for row in memory[:100]]
    wanted, pushes = next(iter(flat.values()))
    for name, (got, chosen) in flat.items():
        off = np.linalg.norm(got - wanted) / np.linalg.norm(wanted - first)
        if not (off < 0.02 and np.mean(np.equal(chosen, pushes)) >= 0.98):  # Adam divides small gradients by their size
            raise ArithmeticError(f"{name}: parameters are off by {off:.2g} of their change")


def measure():
    """Microseconds of CPU time of a step of the cart, in each round, by name."""
    kinds = dict(LEARNERS)
    try:
        import torch  # noqa: F401

        kinds |= {"torch": Torch, "torch.compile": TorchCompiled}
    except ImportError as error:
        print(f"torch skipped: {error}", file=sys.stderr)
    check(kinds)
    kinds["the cart and the loop alone"] = Idle
    learners = {name: kind(0) for name, kind in kinds.items()}
    calls = {name: lambda one=one: dqn["play"](one, 0, STEPS) for name, one in learners.items()}
    seconds_of(1, calls)  # torch compiles for each number of rows
    return {name: [s / STEPS * 1e6 for s in found] for name, found in seconds_of(ROUNDS, calls).items()}


def table(times):
    base = next(iter(times))
    lines = []
    for name, found in times.items():
        ratio = median_ratio(times, name, base)
        lines.append(f"{name:<28} {statistics.median(found):8.1f} us a step of the cart, {ratio:6.2f} times {base}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def times():
    if backends.missing("cython"):
        pytest.skip("needs the engine")
    pytest.importorskip("torch")
    return measure()


@pytest.mark.parametrize("name", LEARNERS)
def test_torch_takes_ten_times_as_long(name, times, capsys):
    ratio = min(median_ratio(times, peer, name) for peer in ("torch", "torch.compile"))
    with capsys.disabled():
        print(f"\n{table(times)}\ntorch takes {ratio:.1f} times as long as {name}", end=" ")
    assert ratio >= AT_LEAST


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    print(table(measure()))
