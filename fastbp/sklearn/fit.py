"""One call of `fit` or `partial_fit`: scikit-learn's loop over epochs, with the engine in place of its batches."""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import xlogy
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastbp.backends.plan import make_plan
from fastbp.data import arguments
from fastbp.errors import StopTraining
from fastbp.metrics import find_all
from fastbp.sklearn import rules
from fastbp.sklearn.epochs import DENSE_BYTES, Epochs, Orders, Rows
from fastbp.sklearn.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rows_of(X: Any) -> Any:
    """X as the engine reads it: an array, or CSR with the columns of each row in order, and once."""
    if not sparse.issparse(X):
        return X
    rows = X.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


class Validation(NamedTuple):
    """Rows to measure on: labels as `_score` takes them, targets as the loss does."""

    X: Any
    labels: Any
    targets: NDArray[Any]
    weight: NDArray[Any] | None


class Fit:
    """Trains an estimator on rows, targets and weights that scikit-learn has checked.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor of `fastbp.sklearn`
    X : ndarray or sparse matrix, (n, features)
    y : ndarray, (n, outputs)
        Of a classifier as its label binarizer gives it.
    weight : ndarray, (n,), or None
    incremental : bool
        `partial_fit`: one epoch, which goes on from the last.
    """

    def __init__(self, estimator: Any, X: Any, y: NDArray[Any], weight: Any, incremental: bool) -> None:
        self.of, self.incremental = estimator, incremental
        self.kept = estimator._memory()
        self._check_arrays(X, y)
        asked = self.kept.asked
        self.watch = asked.watch or Watch(estimator, None, False)
        self.early = estimator.early_stopping  # whatever a callback sets
        self._make_optimizer()
        if self.early and incremental and asked.validation_data is None:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.early and incremental and estimator.validation_scores_ is None:  # until now without it
            estimator.validation_scores_, estimator.best_validation_score_ = [], -math.inf
        self.validation, self.converged = None, False
        if asked.validation_data is not None:
            self.validation = self._given(asked.validation_data)
        elif self.early:
            X, y, weight, self.validation = self._split(X, y, weight)
        elif len(estimator.metrics):
            raise ValueError("metrics need rows to measure on: give fit validation_data, or early_stopping=True")
        self._prepare(X, y, weight)

    def _check_arrays(self, X: Any, y: NDArray[Any]) -> None:
        """The engine trusts shapes, and scikit-learn's checks leave the columns of later targets to its arithmetic."""
        it = self.of
        if y.dtype.kind not in "biuf":  # strings, which scikit-learn's arithmetic refuses, and NumPy would read
            raise TypeError(f"y must hold numbers, got dtype {y.dtype}")
        for name in ("coefs_", "intercepts_"):
            if not all(array.flags.writeable for array in getattr(it, name)):
                raise ValueError(f"{name}: an array is read-only, and training goes on in the arrays that are there")
        inputs, outputs = len(it.coefs_[0]), len(it.intercepts_[-1])
        if (X.shape[1], y.shape[1]) == (inputs, outputs):
            return
        it.n_outputs_ = outputs  # scikit-learn has noted those of y
        raise ValueError(
            f"X and y have {X.shape[1]} and {y.shape[1]} column(s), and this network has {inputs} input(s) and "
            f"{outputs} output(s): partial_fit and warm_start=True go on with the same columns"
        )

    def _make_optimizer(self) -> None:
        """As scikit-learn does: a new one for each `fit`, the one that is there for `partial_fit`."""
        it = self.of
        arrays = it.coefs_ + it.intercepts_
        before = getattr(it, "_optimizer", None)
        if not (self.incremental or (it.warm_start and it.keep_optimizer_state)):
            before = None
        if before is not None:
            rules.check_state(before, arrays)
            if self.incremental:
                return
        if it.optimizer is not None:
            it._optimizer = rules.RuleHolder(it.optimizer, it._network(it.coefs_[0].dtype)._spec)
        elif it.solver == "sgd":
            it._optimizer = rules.SGDOptimizer(
                arrays, it.learning_rate_init, it.learning_rate, it.momentum, it.nesterovs_momentum, it.power_t
            )
        else:
            it._optimizer = rules.AdamOptimizer(arrays, it.learning_rate_init, it.beta_1, it.beta_2, it.epsilon)
        rules.keep_state(before, it._optimizer)

    # -------------------------------------------------------------- rows to measure on

    def _split(self, X: Any, y: NDArray[Any], weight: Any) -> tuple[Any, NDArray[Any], Any, Validation]:
        """Rows to train on and others to validate on, drawn by scikit-learn."""
        it = self.of
        arrays = (X, y) if weight is None else (X, y, weight)
        parts = train_test_split(
            *arrays, random_state=it._random_state, test_size=it.validation_fraction,
            stratify=y if it._classifies and it.n_outputs_ == 1 else None,
        )  # fmt: skip
        train, held = parts[::2], parts[1::2]
        if held[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return *(*train, None)[:3], self._measured_on(*(*held, None)[:3])

    def _given(self, data: Any) -> Validation:
        """`validation_data`, checked as X, y and sample_weight are."""
        it = self.of
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        try:
            X = validate_data(it, data[0], accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
            y = it._encoded(data[1])
            weight = None if len(data) == 2 or data[2] is None else _check_sample_weight(data[2], X)
        except (ValueError, TypeError) as error:
            raise ValueError(f"validation_data: {str(error).removeprefix('validation_data: ')}") from error
        if y.shape != (X.shape[0], it.n_outputs_):
            raise ValueError(
                f"validation_data: X has {X.shape[0]} rows and y has shape {np.shape(data[1])}; "
                f"there are {it.n_outputs_} output(s)"
            )
        if self.early and X.shape[0] < 2:
            raise ValueError("validation_data: early_stopping needs two rows at least, got one")
        if weight is not None and (weight < 0).any():
            raise ValueError("validation_data: weights must be at least 0")
        return self._measured_on(X, y, weight)

    def _measured_on(self, X: Any, y: NDArray[Any], weight: Any) -> Validation:
        it = self.of
        labels = it._label_binarizer.inverse_transform(y) if it._classifies else y
        return Validation(X, labels, y, weight)

    # -------------------------------------------------------------- what the engine gets

    def _prepare(self, X: Any, y: NDArray[Any], weight: Any) -> None:
        it, n, asked = self.of, X.shape[0], self.kept.asked
        self.batch_size = self._batch_size(n)
        self.dtype = it.coefs_[0].dtype
        self.layout = self.kept.layout(it, self.dtype)
        spec = self.layout.net._spec
        self.head = it._head(spec)
        if it.output_activation is None and self.head.link != it.out_activation_:
            raise ValueError(
                f"loss={it.loss!r} is of outputs that have {self.head.link!r}, and this network was begun with "
                f"{it.out_activation_!r}: call fit without warm_start"
            )
        if self.validation is not None:
            held = rows_of(self.validation.X)
            self.validation = self.validation._replace(X=held, targets=self._targets(held, self.validation.targets))
        kind, y = y.dtype, self._targets(X, y)
        if sparse.issparse(X):
            X = X.tocsr()
            if X.shape[0] * X.shape[1] * self.dtype.itemsize <= DENSE_BYTES:
                X = X.toarray()
        factor = self.head.factor
        if self.head.link == "exp" and not self.head.is_own and (y < 0).any():
            factor = math.nan  # scikit-learn's, of the logarithm of such a y, where it descends nevertheless
        rows = Rows(X, y, None if weight is None else np.ascontiguousarray(weight, np.float64))
        self.solver = rules.solver_of(
            it._optimizer, spec, alpha=float(it.alpha), samples=it.t_, rows=n, batch_size=self.batch_size
        )
        self.plan = make_plan(spec, self.batch_size, loss=self.head.loss, rule=self.solver, n_threads=it.n_threads)
        self.program = self.layout.programs.take(self.plan)
        # scikit-learn has float32 in its curve where all it adds up is: the weights of rows, a regressor's targets; of
        # several classes the logarithms, which SciPy has made in float32 from 1.18 on
        if it._classifies:
            kind = xlogy(np.True_, np.float32(1)).dtype if self.head.link == "softmax" else np.dtype(np.float64)
        kinds = {X.dtype, kind, self.dtype, *(() if weight is None else (weight.dtype,))}
        self._kind = np.float32 if kinds == {np.dtype(np.float32)} else np.float64
        if self.validation is not None:  # else an epoch is over when it is found out
            held = self.validation
            find_all(it.metrics, self.head.loss, held.targets, spec.out_features, held.weight)
        self._measures = asked.validation_data is not None or len(it.metrics) > 0
        if not it.loss_curve_:  # those of a run before
            for name in ("validation_loss_curve_", "validation_metrics_"):
                vars(it).pop(name, None)
        if self._measures and not hasattr(it, "validation_loss_curve_"):
            it.validation_loss_curve_, it.validation_metrics_ = [], {}
        rule = (
            math.inf if it.best_loss_ is None else float(it.best_loss_), float(it.tol),
            math.inf if self.early else float(it.n_iter_no_change), float(it._no_improvement_count),
        )  # fmt: skip
        seed = int(it._random_state.randint(1 << 31)) if np.any(it.dropout) else 0
        orders = self.kept.orders if self.kept.goes_on else None
        self.kept.orders = orders = orders or Orders(it._random_state, n, it.shuffle)
        self.epochs = Epochs(
            self.program, self.layout.net.params, self.solver, rows, self.batch_size, orders, alpha=float(it.alpha),
            factor=factor, rule=rule, seed=seed,
        )  # fmt: skip

    def _batch_size(self, n: int) -> int:
        given = self.of.batch_size
        if given == "auto":
            return min(200, n)
        if given > n:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
                stacklevel=2,
            )
        return int(np.clip(given, 1, n))

    def _targets(self, X: Any, y: NDArray[Any]) -> NDArray[Any]:
        """As the loss takes them: labels (n,), or (n, outputs) in the network's dtype."""
        it, head = self.of, self.head
        if head.loss.labels and it._classifies:
            return y.argmax(axis=1)
        y = y.astype(self.dtype)
        if head.signs:
            y = 2 * y - 1
        return arguments.targets(y, head.loss, X, self.layout.net._spec) if head.is_own else y

    # -------------------------------------------------------------- the run

    def go(self) -> None:
        it, kept = self.of, self.kept
        arrays = it.coefs_, it.intercepts_
        self._show_views()
        kept.live, stopped = self, None
        try:
            self._loop()
        except StopTraining as stop:
            stopped = stop.reason
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
            stopped = "interrupted by the user"
        finally:
            kept.live = None
            self.is_finite = self.program.finite()
            for array, view in zip([*arrays[0], *arrays[1]], self.layout.views):
                array[...] = view  # in place, as scikit-learn's updates are
            it.coefs_, it.intercepts_ = arrays
            self.solver.save()
            self.layout.programs.give_back(self.program)
            self.watch.close()
        it.fastbp_ = {
            "ran": "NumPy" if self.plan.backend == "reference" else "compiled", "why": None,
            "backend": self.plan.backend, "isa": self.plan.isa,
            "dtype": "float32" if self.dtype.itemsize == 4 else "float64", "stopped": stopped,
        }  # fmt: skip
        if self.early and not self.incremental:
            it.coefs_, it.intercepts_ = it._best_coefs, it._best_intercepts
        elif self.early and self.converged:
            it.coefs_ = [array.copy() for array in it._best_coefs]
            it.intercepts_ = [array.copy() for array in it._best_intercepts]

    def _show_views(self) -> None:
        """`coefs_` are the kernels' own numbers while they train."""
        views, half = self.layout.views, len(self.layout.views) // 2
        self.of.coefs_, self.of.intercepts_ = views[:half], views[half:]

    def _take_over(self) -> None:
        """The arrays that a callback has put in the place of those."""
        it, views = self.of, self.layout.views
        found = [*it.coefs_, *it.intercepts_]
        if [array.shape for array in found] != [view.shape for view in views]:
            raise ValueError("a callback has replaced coefs_ or intercepts_ by arrays of other shapes")
        for view, array in zip(views, found):
            if array is not view:
                view[...] = array
        self._show_views()

    def _loop(self) -> None:
        it, epochs, watch = self.of, self.epochs, self.watch
        it.n_iter_ = 0
        most = min(1, it.max_iter) if self.incremental else it.max_iter
        waits = self.early or self.validation is not None or watch.waits or self.solver.tells_epochs
        end = math.inf if it.time_limit is None else time.monotonic() + it.time_limit
        watch.begin(most * epochs.steps_per_epoch)
        self._take_over()
        try:
            while it.n_iter_ < most:
                try:
                    epochs.call(1 if waits else most - it.n_iter_)
                finally:  # Ctrl-C too leaves what is known of the epochs that are over
                    ended = self._take_losses()
                watch.show(epochs.steps, it.loss_ if ended else epochs.mean_loss)
                if ended and waits:
                    self._measure()
                if ended and it._no_improvement_count > it.n_iter_no_change:
                    if it._optimizer.trigger_stopping(self._why_stopped(), it.verbose):
                        self.converged = True
                        return
                    it._no_improvement_count = 0
                    epochs.stall[3] = 0
                if it.n_iter_ < most and time.monotonic() >= end:
                    self._time_is_over()
        finally:
            watch.finish(epochs.steps)
        if not self.incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({most}) reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _take_losses(self) -> bool:
        """What scikit-learn notes of each epoch, of those that have ended since it was last asked; whether any has."""
        it, epochs = self.of, self.epochs
        losses = epochs.losses()
        for loss in map(self._kind, losses):
            it.n_iter_ += 1
            it.loss_ = loss
            it.t_ += epochs.n
            it.loss_curve_.append(loss)
            if it.verbose:
                print(f"Iteration {it.n_iter_}, loss = {loss:.8f}")
            self.solver.epoch_ended(it.t_, loss)
        if losses and not self.early:
            it._no_improvement_count = int(epochs.stall[3])
            if epochs.stall[0] != it.best_loss_:
                it.best_loss_ = self._kind(epochs.stall[0])
        return bool(losses)

    def _measure(self) -> None:
        """What is waited for at the end of an epoch."""
        it, rows = self.of, self.validation
        logs = {"epoch": it.n_iter_, "step": self.epochs.steps, "loss": float(it.loss_),
                "lr": float(it._optimizer.learning_rate)}  # fmt: skip
        if self._measures:
            measured = self.layout.net.evaluate(
                rows.X, rows.targets, loss=self.head.loss, sample_weight=rows.weight, metrics=tuple(it.metrics)
            )
            values = measured if isinstance(measured, dict) else {"loss": measured}
            values["loss"] *= self.head.factor
            it.validation_loss_curve_.append(values["loss"])
            for name, value in values.items():
                if name != "loss":
                    it.validation_metrics_.setdefault(name, []).append(value)
            logs |= {f"val_{name}": value for name, value in values.items()}
        if self.early:
            it._update_no_improvement_count(True, rows.X, rows.labels, rows.weight)
        try:
            self.watch.epoch_ended(logs)
        finally:
            self._take_over()

    def _why_stopped(self) -> str:
        it = self.of
        what = "Validation score" if self.early else "Training loss"
        patience = math.trunc(it.n_iter_no_change)
        return f"{what} did not improve more than tol={it.tol:f} for {patience} consecutive epochs."

    def _time_is_over(self) -> None:
        reason = f"the time limit of {self.of.time_limit:g} seconds"
        warnings.warn(
            f"Stochastic Optimizer: {reason} was reached and the optimization hasn't converged yet.",
            ConvergenceWarning, stacklevel=2,
        )  # fmt: skip
        raise StopTraining(reason)
