"""Optimizers seen from the training loop: the numbers of the steps to come, and slots that their holder gets back.

The holder of the state is scikit-learn's own object in `_optimizer`: a pickle written by either is continued by the
other. A rule of fastbp's has a holder of its own, which stands in the same place.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, BaseOptimizer, SGDOptimizer

from fastbp import optimizers, spec
from fastbp.backends.protocol import Update
from fastbp.optimizers import of_steps
from fastbp.schedules import ReduceOnPlateau
from fastbp.spec import Spec, aligned_zeros
from fastbp.training.state import TrainingState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.rows import Optimizer


_ANY = 1 << 40  # steps: a constant is stored once, whatever their number


def views(network: Spec, buffer: NDArray[Any]) -> list[NDArray[Any]]:
    """The weights in a buffer, then the biases: scikit-learn's order."""
    weights = [layer.weight_in(buffer) for layer in network.layers]
    return [*weights, *(layer.bias_in(buffer) for layer in network.layers)]  # type: ignore[list-item]


class Solver:
    """One of scikit-learn's optimizer objects, for the steps of one call of `fit` or `partial_fit`.

    Parameters
    ----------
    holder : BaseOptimizer
    network : Spec
    alpha : float
        Of the L2 term: weights decay by alpha over the rows of the batch, or over the sum of their weights.
    """

    row: Optimizer
    names: tuple[str, ...]  # what scikit-learn calls the row's slots
    needs_whole_gradient = False  # asked by `make_plan`, as the next
    tells_epochs = False  # whether the rate depends on the losses of the epochs so far

    def __init__(self, holder: Any, network: Spec, alpha: float) -> None:
        self.holder, self.network, self.alpha = holder, network, alpha
        self.is_plain = not alpha
        self.count = np.zeros(1, np.int64)
        self.slots = []
        for name in self.names:
            buffer = aligned_zeros(network.buffer_size, network.dtype)
            for view, value in zip(views(network, buffer), getattr(holder, name)):
                view[...] = value
            self.slots.append(buffer)
        constants = {"weight_decay": 0.0} | self.constants()
        self._constants = {name: of_steps(value, _ANY) for name, value in constants.items()}

    def constants(self) -> dict[str, float]:
        """Scalars of the row that stay as they are."""
        raise NotImplementedError

    def values(self, epochs: int, steps: int) -> dict[str, Any]:
        """The others: of all `steps`, or one value for each; they are shared evenly by so many epochs."""
        raise NotImplementedError

    def update(self, epochs: int, steps: int, totals: Any, params: NDArray[Any]) -> Update:
        """What the next steps are made with; `totals` is what their gradients are divided by, for all or for each."""
        moving = self.values(epochs, steps)
        known = self._constants | {name: of_steps(value, steps) for name, value in moving.items()}
        groups = [[known[name][:steps] for name in self.row.scalars]]
        if self.alpha:  # of weights, not of biases
            of_weights = groups[0].copy()
            of_weights[self.row.scalars.index("weight_decay")] = of_steps(self.alpha / totals, steps)
            groups = [of_weights, *groups] * len(self.network.layers)
        return Update(self.row, self.slots, groups, [0.0] * len(groups))

    def made(self, steps: int) -> None:
        """So many steps were made."""

    def epoch_ended(self, samples: int, loss: float) -> None:
        """Another epoch is over; `samples` so far."""
        self.holder.iteration_ends(samples)

    def save(self) -> None:
        """Give the holder its slots back."""
        for name, buffer in zip(self.names, self.slots):
            before = getattr(self.holder, name)
            made = [
                view.astype(old.dtype, order="C", copy=True) for view, old in zip(views(self.network, buffer), before)
            ]
            setattr(self.holder, name, made)


class Momentum(Solver):
    """`SGDOptimizer`."""

    names = ("velocities",)

    def __init__(self, holder: Any, network: Spec, alpha: float, samples: int, of_epoch: int) -> None:
        self.row = optimizers.TABLE["sgd_velocity_nesterov" if holder.nesterov else "sgd_velocity"]
        self._samples, self._of_epoch = samples, of_epoch  # `t_`, and what an epoch adds to it
        super().__init__(holder, network, alpha)

    def constants(self) -> dict[str, float]:
        return {"momentum": self.holder.momentum}

    def values(self, epochs: int, steps: int) -> dict[str, Any]:
        holder, lr = self.holder, self.holder.learning_rate
        if holder.lr_schedule == "invscaling" and epochs > 1:
            ends = (self._samples + k * self._of_epoch for k in range(1, epochs))
            coming = [float(holder.learning_rate_init) / (end + 1) ** holder.power_t for end in ends]
            lr = np.repeat([lr, *coming], steps // epochs)
        return {"lr": lr}

    def epoch_ended(self, samples: int, loss: float) -> None:
        self._samples = samples
        super().epoch_ended(samples, loss)


class Moments(Solver):
    """`AdamOptimizer`: its formula is fastbp's row with the second correction in the rate, and eps beside it."""

    names = ("ms", "vs")
    row = optimizers.TABLE["adam"]

    def constants(self) -> dict[str, float]:
        b1, b2 = self.holder.beta_1, self.holder.beta_2
        return {
            "root": 1.0, "eps": self.holder.epsilon, "kept": 1.0,
            "beta1": b1, "rest1": 1 - b1, "beta2": b2, "rest2": 1 - b2,
        }  # fmt: skip

    def _rate(self, t: Any) -> Any:
        """scikit-learn's learning rate at step t, from 1 on."""
        holder = self.holder
        return holder.learning_rate_init * np.sqrt(1 - holder.beta_2**t) / (1 - holder.beta_1**t)

    def values(self, epochs: int, steps: int) -> dict[str, Any]:
        return {"step_size": self._rate(self.holder.t + np.arange(1.0, steps + 1))}

    def made(self, steps: int) -> None:
        self.holder.t += steps
        if steps:
            self.holder.learning_rate = self._rate(self.holder.t)


class RuleHolder(BaseOptimizer):
    """A rule of fastbp's with its state, where scikit-learn has its optimizer objects."""

    def __init__(self, rule: Any, network: Spec) -> None:
        self.rule = spec.optimizer(rule, network)
        super().__init__(self.rule.rate(0))
        self.state = TrainingState(network, 0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"state": (self.state.spec, self.state.to_dict())}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved, state=TrainingState.from_dict(*saved["state"]))


class Own(Solver):
    """A rule of fastbp's, whose own decay stays beside the L2 term."""

    names = ()

    def constants(self) -> dict[str, float]:
        return {}

    def __init__(self, holder: RuleHolder, network: Spec, alpha: float, rows: int, batch_size: int) -> None:
        super().__init__(holder, network, alpha)
        rule = spec.optimizer(holder.rule, network, rows, batch_size)
        if rule.average is not None:
            raise ValueError("optimizer: the estimators keep no average of the parameters; fastbp.MLP does")
        self._decays = not alpha or "weight_decay" in rule.row.scalars
        if not self._decays:  # a rule of its kind that has a place for the L2 term, which is filled in `update`
            rule = self._with_decay(rule)
        self.rule, self.count = rule, holder.state.count
        self.row, self.needs_whole_gradient = rule.row, rule.needs_whole_gradient
        self.is_plain = rule.is_plain and not alpha
        self.tells_epochs = isinstance(rule.lr, ReduceOnPlateau)

    def _with_decay(self, rule: optimizers.Rule) -> optimizers.Rule:
        decays = any(field.name == "weight_decay" for field in fields(rule))
        made = replace(rule, weight_decay=1.0) if decays else rule
        if "weight_decay" not in made.row.scalars:
            raise ValueError(
                f"alpha must be 0 with {type(rule).__name__}, which takes no L2 term into its gradient; "
                f"got alpha={self.alpha!r}"
            )
        return made

    def update(self, epochs: int, steps: int, totals: Any, params: NDArray[Any]) -> Update:
        update = self.holder.state.update(self.rule, steps, params, accumulate=self.rule.accumulate)
        if not self.alpha:
            return update
        at, n = update.row.scalars.index("weight_decay"), 2 * len(self.network.layers)
        groups = [list(group) for group in update.scalars * (n // len(update.scalars))]
        for k, group in enumerate(groups):
            own = group[at] if self._decays else np.float64(0)
            group[at] = of_steps(own if k % 2 else own + self.alpha / totals, steps)
        return update._replace(scalars=groups, l1=update.l1 * (n // len(update.l1)))

    def made(self, steps: int) -> None:
        state = self.holder.state
        self.holder.learning_rate = self.rule.rate(state.step) * state.reduction_of(self.rule)

    def epoch_ended(self, samples: int, loss: float) -> None:
        state = self.holder.state
        if self.tells_epochs:
            state.tell(self.rule.lr, np.array([loss]))
        state.place[0] += 1

    def save(self) -> None:
        pass


def check_state(holder: Any, arrays: list[NDArray[Any]]) -> None:
    """Refuse an optimizer's state that is of other weights than these: somebody has replaced them."""
    if isinstance(holder, RuleHolder):
        known, biases = holder.state.spec, arrays[len(arrays) // 2 :]
        suits = (known.sizes, known.dtype) == ((len(arrays[0]), *map(len, biases)), arrays[0].dtype)
    else:
        slots = holder.ms if isinstance(holder, AdamOptimizer) else holder.velocities
        suits = [slot.shape for slot in slots] == [array.shape for array in arrays]
    if not suits:
        raise ValueError("coefs_ were replaced by others than those that the optimizer's state is of: call fit first")


def keep_state(before: Any, made: Any) -> None:
    """Go on with the state of the last optimizer where the new one, whose settings hold, is of its kind."""
    if type(before) is not type(made):
        return
    if isinstance(made, RuleHolder):
        made.state = before.state
        return
    names = ("t", "ms", "vs") if isinstance(made, AdamOptimizer) else ("velocities",)
    if isinstance(made, SGDOptimizer):
        rate = (before.learning_rate_init, before.lr_schedule) == (made.learning_rate_init, made.lr_schedule)
        names += ("learning_rate",) if rate else ()
    for name in names:
        setattr(made, name, getattr(before, name))


def solver_of(holder: Any, network: Spec, *, alpha: float, samples: int, rows: int, batch_size: int) -> Solver:
    """How an optimizer object trains a network on so many rows an epoch, after so many `samples`."""
    if isinstance(holder, RuleHolder):
        return Own(holder, network, alpha, rows, batch_size)
    if isinstance(holder, AdamOptimizer):
        return Moments(holder, network, alpha)
    return Momentum(holder, network, alpha, samples, rows)


__all__ = ["AdamOptimizer", "RuleHolder", "SGDOptimizer", "Solver", "check_state", "keep_state", "solver_of"]
