"""Networks in lanes, each with all that `Many` moves on, and the same ones for `Program`; what the test files share."""

import numpy as np

import fastbp
from fastbp import spec
from fastbp.backends.plan import make_plan, program
from fastbp.backends.protocol import Member


class Learner:
    """An MLP with the arrays that a call of `train` moves on, and the data it is trained on."""

    def __init__(self, net, X, y, rule, *, loss="mse", weight=None, rows=None, seed=None, place=(0, 0)):
        self.net, self.X, self.y, self.rule, self.weight, self.rows = net, X, y, rule, weight, rows
        self.loss = spec.loss(loss, net._spec)
        self.seed = net.seed if seed is None else seed
        self.state, self.params = net._state, net._params
        self.state.place[:] = place
        self.partial, self.losses = np.zeros(2), np.full(4096, np.nan)
        self.state.prepare(rule, self.params)

    def copy(self, dtype=None):
        """A twin, of another dtype on demand."""
        old = self.net._spec
        net = fastbp.MLP(old.sizes, activation=old.activations[0].name, bias=bool(self.net.biases), seed=self.net.seed,
                         dtype=dtype or old.dtype, backend="cython")  # fmt: skip
        net.unflatten(self.net.flatten())
        state = net._state
        state.enter_family(self.state.family)
        for name, slot in self.state.slots.items():
            state.slots[name] = net._spec.padded(old.flatten(slot))
        twin = Learner(net, self.X, self.y, self.rule, loss=self.loss, weight=self.weight, rows=self.rows,
                       seed=self.seed, place=self.state.place)  # fmt: skip
        twin.partial[:], twin.losses[:], state.count[:] = self.partial, self.losses, self.state.count
        return twin

    def member(self):
        return Member(self.params, self.state.count, self.state.place, self.partial, self.losses,
                      self.X, self.y, self.weight, self.rows, self.seed)  # fmt: skip

    def update(self, steps):
        return self.state.update(self.rule, steps, self.params)

    def plan(self, batch_size, backend="cython"):
        return make_plan(self.net._spec, batch_size, backend=backend, loss=self.loss, rule=self.rule)

    def train(self, steps, batch_size, shuffle, backend, stop=True):
        """One by one; its losses go where the lanes' go too."""
        X, y, weight = ((a if self.rows is None or a is None else a[self.rows]) for a in (self.X, self.y, self.weight))
        before = np.count_nonzero(~np.isnan(self.losses))
        return program(self.plan(batch_size, backend), self.params).train(
            X, y, weight, batch_size=batch_size, steps=steps, seed=self.seed, shuffle=shuffle, count=self.state.count,
            place=self.state.place, partial=self.partial, losses=self.losses[before:], update=self.update(steps),
            stop_on_loss=stop, stop_on_params=stop,
        )  # fmt: skip

    @property
    def bits(self):
        """All that a call of `train` moves on."""
        return {
            "params": self.net.flatten().tobytes(),
            "slots": {name: self.net._spec.flatten(slot).tobytes() for name, slot in self.state.slots.items()},
            "count": self.state.count.tobytes(), "place": self.state.place.tobytes(),
            "partial": self.partial.tobytes(), "losses": self.losses.tobytes(),
        }  # fmt: skip


def many(learners, batch_size, shuffle=False, stop=True):
    from fastbp.backends.cython import Many

    return Many(learners[0].plan(batch_size), [one.member() for one in learners], batch_size=batch_size,
                shuffle=shuffle, stop_on_non_finite=stop)  # fmt: skip


def train(learners, steps, batch_size, shuffle=False, stop=True, lanes=None):
    """One call for all of them, `steps` each or a list; status and epochs. `lanes`: of an earlier call."""
    steps = np.broadcast_to(np.asarray(steps, np.int64), len(learners)).copy()
    updates = [one.update(int(n)) for one, n in zip(learners, steps)]
    lanes = lanes or many(learners, batch_size, shuffle, stop)
    return lanes.train(np.arange(len(learners)), steps, updates)
