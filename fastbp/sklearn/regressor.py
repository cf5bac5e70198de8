"""`MLPRegressor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from sklearn.metrics import r2_score
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if

from fastbp.sklearn import parameters
from fastbp.sklearn.estimator import Compiled

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from fastbp.optimizers import Rule
    from fastbp.rows import Loss
    from fastbp.typing import ActivationLike

    _MLPRegressor: TypeAlias = Any  # which has no types
else:
    from sklearn.neural_network import MLPRegressor as _MLPRegressor


def _r2(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """`r2_score` of arrays that are known to suit each other, in a tenth of the time; constants are left to it."""
    weight = None if sample_weight is None else sample_weight[:, None]
    t, a = y_true.reshape(len(y_true), -1), y_pred.reshape(len(y_pred), -1)
    t = t.astype(np.result_type(t if t.dtype.kind == "f" else np.float64, a), copy=False)
    error = (1 if weight is None else weight) * (t - a) ** 2
    spread = (1 if weight is None else weight) * (t - np.average(t, axis=0, weights=sample_weight)) ** 2
    error, spread = error.sum(axis=0, dtype=np.float64), spread.sum(axis=0, dtype=np.float64)
    if len(t) < 2 or not (error.all() and spread.all()):
        return r2_score(y_true, y_pred, sample_weight=sample_weight)
    return float(np.average(1 - error / spread))


class MLPRegressor(Compiled, _MLPRegressor):
    """scikit-learn's `MLPRegressor` with fastbp's kernels: the same parameters, draws, results and attributes, faster.

    It is a subclass of ``sklearn.neural_network.MLPRegressor``. With the defaults of what it takes beyond that class, a
    fit draws the same random numbers and comes to the same weights within rounding.

    Parameters
    ----------
    loss : str or row, default "squared_error"
        "squared_error" and "poisson" are scikit-learn's. Others are fastbp's losses of values, such as "mae", "mse",
        "huber", "log_cosh", "quantile", "gamma" and "tweedie", with settings as in
        ``fastbp.losses.quantile(quantile=0.9)``. Where a loss computes from the logarithm of the mean ("poisson",
        "gamma", "tweedie"), `predict` gives the mean.
    hidden_layer_sizes, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t : as in scikit-learn
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum : as in scikit-learn
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2 : as in scikit-learn
    epsilon, n_iter_no_change, max_fun : as in scikit-learn
        These mean what they mean in ``sklearn.neural_network.MLPRegressor``, and have its defaults.
    activation : str, row, or sequence of them, default "relu"
        Of the hidden layers: one of scikit-learn's names or any other of `fastbp.activations`, or a row of your own. A
        sequence has one for each hidden layer.
    dropout : float or sequence of float, default 0
        The share of each hidden layer's outputs that a training step sets to 0, the others being scaled up; one for all
        hidden layers or one for each, from 0, below 1. It is drawn from `random_state`. Predictions have none.
    output_activation : str, row or None, default None
        The activation of the output layer, by a name of `fastbp.activations` or as a row. None is scikit-learn's. A
        loss that has an activation of its own ("poisson") refuses another.
    optimizer : str, optimizer or None, default None
        One of fastbp's instead of `solver`, with a schedule where its rate has one, such as
        ``fastbp.AdamW(lr=fastbp.schedules.Cosine(0.01, steps=1000))``; a name takes that one's defaults. It wins over
        `solver`, and `learning_rate_init`, `learning_rate`, `power_t`, `momentum`, `nesterovs_momentum`, `beta_1`,
        `beta_2` and `epsilon` have no effect then. `alpha` is still added to the gradient. Schedules count steps, which
        are batches. L-BFGS and moving averages of the parameters are refused.
    metrics : sequence of str or callable, default ()
        What is measured after each epoch on `validation_data` or on the rows of `early_stopping`, beside the loss:
        names of `fastbp.metrics` ("r2", "mae", "rmse"), or functions ``(targets, outputs) -> float``. A function gets
        both as (n, outputs). Without such rows a ValueError.
    time_limit : float or None, default None
        Seconds of wall-clock time after which `fit` ends, at the end of the call of the engine at hand (about 50
        milliseconds), with a `ConvergenceWarning`. The estimator is fitted then, with the weights that it has.
    dtype : {"float32", "float64"} or None, default None
        What is trained and predicted in, whatever X is. None is scikit-learn's rule: float32 where X is, else float64.
    n_threads : int or None, default None
        Threads that large layers may use, at most. None is ``FASTBP_NUM_THREADS``, ``OMP_NUM_THREADS`` or the CPUs.
        Results do not depend on it by a bit.
    keep_optimizer_state : bool, default False
        Whether a `fit` with ``warm_start=True`` goes on with the moments, velocities and step count of the last one.
        scikit-learn begins these anew.

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, n_iter_, t_, n_layers_ : as in scikit-learn
    n_outputs_, out_activation_, n_features_in_, feature_names_in_ : as in scikit-learn
    validation_scores_, best_validation_score_ : as in scikit-learn
        As scikit-learn has them.
    fastbp_ : dict
        What trained: "ran" is "compiled" or "scikit-learn", and "why" says why it was the latter. After "compiled":
        "backend", "isa" (of the kernels), "dtype", and "stopped": None, or why the run ended before its time (a
        callback's `fastbp.StopTraining`, the time limit, Ctrl-C).
    validation_loss_curve_ : list of float
        The loss of the validation rows after each epoch, without the L2 term. It is there where `fit` was given
        `validation_data`, or `metrics` were asked for.
    validation_metrics_ : dict of list of float
        The values of `metrics` after each epoch, by name. It is there where `validation_loss_curve_` is.

    Raises
    ------
    ValueError
        A parameter is out of range (scikit-learn's `InvalidParameterError`); `alpha` is not 0 with an optimizer that
        takes no L2 term into its gradient; ``solver="lbfgs"``, which is scikit-learn's own code, with what that code
        has not.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from fastbp.sklearn import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = scale(X), scale(y)
    >>> net = MLPRegressor(hidden_layer_sizes=(20,), max_iter=1000, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.5), net.predict(X[:2]).shape
    (True, (2,))

    What scikit-learn's class does not take:

    >>> import fastbp
    >>> net = MLPRegressor(fastbp.losses.quantile(quantile=0.9), (20,), dtype="float32", time_limit=60,
    ...                    max_iter=500, random_state=0)
    >>> net = net.fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    >>> net.coefs_[0].dtype.name, bool((net.predict(X) > y).mean() > 0.8)
    ('float32', True)
    """

    __module__ = "fastbp.sklearn"

    _classifies = False
    _scikit = _MLPRegressor
    _scikit_losses = ("squared_error", "poisson")
    _kind_of_targets = None
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_MLPRegressor._parameter_constraints, **parameters.OF_REGRESSORS
    }  # fmt: skip

    def __init__(
        self, loss: str | Loss = "squared_error", hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: int | str = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, dropout: float | Sequence[float] = 0,
        output_activation: ActivationLike | None = None, optimizer: str | Rule | None = None,
        metrics: Sequence[Any] = (), time_limit: float | None = None, dtype: str | type | None = None,
        n_threads: int | None = None, keep_optimizer_state: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            loss=loss, hidden_layer_sizes=hidden_layer_sizes, activation=activation, solver=solver, alpha=alpha,
            batch_size=batch_size, learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t,
            max_iter=max_iter, shuffle=shuffle, random_state=random_state, tol=tol, verbose=verbose,
            warm_start=warm_start, momentum=momentum, nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping, validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2,
            epsilon=epsilon, n_iter_no_change=n_iter_no_change, max_fun=max_fun,
        )  # fmt: skip
        self._take_more(
            dropout, output_activation, optimizer, metrics, time_limit, dtype, n_threads, keep_optimizer_state
        )

    @available_if(lambda est: est._check_solver)  # as scikit-learn has it: lbfgs is found out when it is called
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Self:
        """Train for one epoch over these rows, and go on where the last call ended.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        y : array_like, (n,) or (n, outputs)
        sample_weight : array_like, (n,), optional
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Rows to measure on after this epoch. They make ``early_stopping=True`` work here: once the score on them has
            not improved by `tol` for more than `n_iter_no_change` calls, the best weights come back.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            What scikit-learn refuses; ``early_stopping=True`` without `validation_data`.
        AttributeError
            ``solver="lbfgs"`` without `optimizer`.
        """
        with self._asked(validation_data):
            if sample_weight is None and self._goes_on_with(X) and self._is_plain_target(y, len(X)):
                return self._go_on(X, y.reshape(len(X), -1))
            return super().partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> NDArray[Any]:
        """Targets of rows.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)

        Returns
        -------
        ndarray, (n,), or (n, outputs) where there are several
        """
        out = self._quick(X)
        return super().predict(X) if out is None else self._shaped(self._linked(out))

    # -------------------------------------------------------------- what scikit-learn's code calls

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return self._score_with_function(X, y, sample_weight=sample_weight, score_function=_r2)

    # -------------------------------------------------------------- targets

    @property
    def _scikit_link(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _shaped(self, out: NDArray[Any]) -> NDArray[Any]:
        return out.ravel() if out.shape[1] == 1 else out

    def _is_plain_target(self, y: Any, n: int) -> bool:
        """Whether scikit-learn would take y as it is."""
        if type(y) is not np.ndarray or y.dtype.kind != "f" or y.dtype.itemsize not in (4, 8):
            return False
        return y.shape == ((n,) if self.n_outputs_ == 1 else (n, self.n_outputs_)) and bool(np.isfinite(y).all())

    def _encoded(self, y: Any) -> NDArray[Any]:
        """Targets that somebody gave for validation, (n, outputs)."""
        y = check_array(y, ensure_2d=False, dtype=(np.float64, np.float32), input_name="validation_data")
        return y.reshape(len(y), -1)
