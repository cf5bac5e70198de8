"""A stand-in for the networks in lanes: each is trained by a program of its own, as `fit` does, with the bits of `fit`.

What `fastbp.many.cohorts` does around the lanes can so be held against `fit` bit by bit.
"""

import numpy as np

from fastbp.backends import plan as plans
from fastbp.backends.plan import BLOCK_ROWS
from fastbp.backends.protocol import DONE, PARAMS_NOT_FINITE


def serves(plan, batch_size, lanes):
    return plan.backend == "cython" and plan.bare


class Many:
    """See `fastbp.backends.protocol.Many`."""

    def __init__(self, plan, members, *, batch_size, shuffle, stop_on_non_finite):
        self.members, self.batch_size = members, batch_size
        self.shuffle, self.stop = shuffle, stop_on_non_finite
        plan = plan._replace(batch=max(batch_size, BLOCK_ROWS))
        self.programs = [plans.program(plan, member.params) for member in members]
        self.epochs = [0] * len(members)

    def train(self, which, steps, updates):
        assert which.dtype == steps.dtype == np.int64 and len(set(which.tolist())) == len(which) and (steps > 0).all()
        made = [self._train(*one) for one in zip(which.tolist(), steps.tolist(), updates, strict=True)]
        return np.array([status for status, _ in made]), np.array([epochs for _, epochs in made])

    def _train(self, k, steps, update):
        member, program = self.members[k], self.programs[k]
        rows = slice(None) if member.rows is None else member.rows
        X, y, weight = member.X[rows], member.y[rows], None if member.weight is None else member.weight[rows]
        arrays = [member.params, *update.slots, member.count, member.place, member.partial]
        before = [array.copy() for array in arrays]

        def run(steps, stop_on_params=False):
            for array, copy in zip(arrays, before):
                array[...] = copy
            return program.train(
                X, y, weight, batch_size=min(self.batch_size, len(X)), steps=steps, seed=member.seed,
                shuffle=self.shuffle, count=member.count, place=member.place, partial=member.partial,
                losses=member.losses[self.epochs[k] :], update=update, stop_on_loss=self.stop,
                stop_on_params=stop_on_params,
            )  # fmt: skip

        done = run(steps)
        status = DONE
        if self.stop and (done.status != DONE or not program.finite()):
            done = run(steps, stop_on_params=True)
            status = done.status
            if status == PARAMS_NOT_FINITE:
                done = run(done.steps - 1)
        self.epochs[k] += done.epochs
        return status, done.epochs

    def evaluate(self, which, X, y, weight, total):
        losses = []
        for k in which.tolist():
            value = 0.0
            for block in blocks(len(X)):
                self.programs[k].forward(X[block], None)
                part = None if weight is None else weight[block]
                value += self.programs[k].loss(y[block], part, total, gradient=False)
            losses.append(value)
        return np.array(losses)

    def forward(self, which, X, out):
        for k, outputs in zip(which.tolist(), out, strict=True):
            for block in blocks(len(X)):
                self.programs[k].forward(X[block], outputs[block])


def blocks(n):
    return [slice(start, start + BLOCK_ROWS) for start in range(0, n, BLOCK_ROWS)]


def instead_of_lanes(monkeypatch):
    """Whatever may be side by side is, and its bits are those of `fit`."""
    from fastbp.many import cohorts

    monkeypatch.setattr(cohorts, "many", Many)
    monkeypatch.setattr(cohorts, "serves_lanes", serves)
