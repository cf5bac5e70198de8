"""`MLPClassifier`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, _check_y, validate_data

from fastbp.sklearn import parameters
from fastbp.sklearn.estimator import Compiled

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from fastbp.optimizers import Rule
    from fastbp.rows import Loss
    from fastbp.typing import ActivationLike

    _MLPClassifier: TypeAlias = Any  # which has no types
else:
    from sklearn.neural_network import MLPClassifier as _MLPClassifier


def _classes_of(y: Any) -> NDArray[Any] | None:
    """The labels in y, in order, where scikit-learn takes y as it is and says nothing: integers, each many times."""
    if type(y) is not np.ndarray or y.ndim != 1 or y.dtype.kind not in "iu" or not y.dtype.isnative:
        return None
    classes = np.unique(y)
    return classes if 0 < 2 * len(classes) <= len(y) else None


def _accuracy(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """`accuracy_score` of arrays of labels that are known to suit each other, in a tenth of the time."""
    if type(y_true) is not np.ndarray or type(y_pred) is not np.ndarray:
        return accuracy_score(y_true, y_pred, sample_weight=sample_weight)
    right = y_true == y_pred
    right = right if right.ndim == 1 else right.all(axis=1)
    if sample_weight is None:
        return float(np.count_nonzero(right) / len(right))
    return float(np.average(right, weights=sample_weight))


_ZERO = np.zeros(1)  # NumPy compares an array with another in a third of the time that it takes for a number


class MLPClassifier(Compiled, _MLPClassifier):
    """scikit-learn's `MLPClassifier` with fastbp's kernels: the same parameters, draws, results and attributes, faster.

    It is a subclass of ``sklearn.neural_network.MLPClassifier``. With the defaults of what it takes beyond that class,
    a fit draws the same random numbers and comes to the same weights within rounding.

    Parameters
    ----------
    hidden_layer_sizes, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t : as in scikit-learn
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum : as in scikit-learn
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2 : as in scikit-learn
    epsilon, n_iter_no_change, max_fun : as in scikit-learn
        These mean what they mean in ``sklearn.neural_network.MLPClassifier``, and have its defaults.
    activation : str, row, or sequence of them, default "relu"
        Of the hidden layers: one of scikit-learn's names or any other of `fastbp.activations`, or a row of your own. A
        sequence has one for each hidden layer.
    loss : str or row, default "log_loss"
        "log_loss" is scikit-learn's. Others are fastbp's losses of classes, such as "focal", "hinge", "squared_hinge",
        "softmax_cross_entropy" and "binary_cross_entropy", with settings as in ``fastbp.losses.focal(gamma=2.0)``.
        After a loss that is not one of probabilities (the hinges) there is no `predict_proba`.
    class_weight : dict, list of dict, "balanced" or None, default None
        Weights of classes, label to weight, by which the weights of rows are multiplied; "balanced" makes each class
        count the same in sum. A list has a dict for each label of a multilabel task. `partial_fit` does not take
        "balanced", which needs all labels at once.
    dropout : float or sequence of float, default 0
        The share of each hidden layer's outputs that a training step sets to 0, the others being scaled up; one for all
        hidden layers or one for each, from 0, below 1. It is drawn from `random_state`. Predictions have none.
    output_activation : str, row or None, default None
        The activation of the output layer, by a name of `fastbp.activations` or as a row. None is scikit-learn's. A
        loss that has an activation of its own ("log_loss", "focal") refuses another.
    optimizer : str, optimizer or None, default None
        One of fastbp's instead of `solver`, with a schedule where its rate has one, such as
        ``fastbp.AdamW(lr=fastbp.schedules.Cosine(0.01, steps=1000))``; a name takes that one's defaults. It wins over
        `solver`, and `learning_rate_init`, `learning_rate`, `power_t`, `momentum`, `nesterovs_momentum`, `beta_1`,
        `beta_2` and `epsilon` have no effect then. `alpha` is still added to the gradient. Schedules count steps, which
        are batches. L-BFGS and moving averages of the parameters are refused.
    metrics : sequence of str or callable, default ()
        What is measured after each epoch on `validation_data` or on the rows of `early_stopping`, beside the loss:
        names of `fastbp.metrics` ("accuracy", "balanced_accuracy", "top_5"), or functions ``(targets, outputs) ->
        float``. A function gets numbers of classes (n,), or targets of 0 and 1 (n, outputs) where a task is binary or
        multilabel, and the network's outputs (n, outputs) before softmax or sigmoid. Without such rows a ValueError.
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
    classes_, coefs_, intercepts_, loss_, best_loss_, loss_curve_, n_iter_, t_, n_layers_ : as in scikit-learn
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
    >>> from sklearn.datasets import load_iris
    >>> from fastbp.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = MLPClassifier((20,), learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.95), net.predict_proba(X[:2]).shape
    (True, (2, 3))

    What scikit-learn's class does not take:

    >>> import fastbp
    >>> rate = fastbp.schedules.Cosine(0.02, steps=600)
    >>> net = MLPClassifier((20, 10), activation=["gelu", "tanh"], class_weight="balanced", dropout=0.1,
    ...                     optimizer=fastbp.AdamW(lr=rate), batch_size=32, metrics=["accuracy"], max_iter=100,
    ...                     random_state=0)
    >>> net = net.fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    >>> bool(max(net.validation_metrics_["accuracy"]) > 0.9), net.fastbp_["ran"]
    (True, 'compiled')
    """

    __module__ = "fastbp.sklearn"

    classes_: Any  # as in scikit-learn: an array, or for multilabel tasks several
    _classifies = True
    _scikit = _MLPClassifier
    _scikit_losses = ("log_loss",)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_MLPClassifier._parameter_constraints, **parameters.OF_CLASSIFIERS
    }  # fmt: skip

    def __init__(
        self, hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: int | str = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, loss: str | Loss = "log_loss", class_weight: Any = None,
        dropout: float | Sequence[float] = 0, output_activation: ActivationLike | None = None,
        optimizer: str | Rule | None = None, metrics: Sequence[Any] = (), time_limit: float | None = None,
        dtype: str | type | None = None, n_threads: int | None = None, keep_optimizer_state: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes, activation=activation, solver=solver, alpha=alpha,
            batch_size=batch_size, learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t,
            max_iter=max_iter, shuffle=shuffle, random_state=random_state, tol=tol, verbose=verbose,
            warm_start=warm_start, momentum=momentum, nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping, validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2,
            epsilon=epsilon, n_iter_no_change=n_iter_no_change, max_fun=max_fun,
        )  # fmt: skip
        self.loss = loss
        self.class_weight = class_weight
        self._take_more(
            dropout, output_activation, optimizer, metrics, time_limit, dtype, n_threads, keep_optimizer_state
        )

    @available_if(lambda est: est._check_solver())
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> Self:
        """Train for one epoch over these rows, and go on where the last call ended.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        y : array_like, (n,), or (n, labels) of 0 and 1
        sample_weight : array_like, (n,), optional
        classes : array_like, (n_classes,), optional
            All labels that may come; the first call needs them.
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
            own = self.class_weight is not None or self.warm_start
            if sample_weight is None and classes is None and not own and self._goes_on_with(X):
                known = self._known(y, len(X))
                if known is not None:
                    return self._go_on(X, known)
            return super().partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels of rows.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)

        Returns
        -------
        ndarray, (n,), or (n, labels) where the task is multilabel
        """
        out = self._quick(X)
        return super().predict(X) if out is None else self._decided(out)

    @available_if(parameters.gives_probabilities)
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of classes.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)

        Returns
        -------
        ndarray, (n, n_classes)
            In the order of `classes_`. Where the task is multilabel, each column is a probability by itself.

        Raises
        ------
        AttributeError
            The loss is not one of probabilities.
        """
        out = self._quick(X)
        found = super().predict_proba(X) if out is None else self._linked(out)
        if out is not None and out.shape[1] == 1:
            found = np.vstack([1 - found[:, 0], found[:, 0]]).T
        if self.out_activation_ == "logistic" and self._kind_of_targets == "multiclass":
            total = found.sum(axis=1, keepdims=True)  # of a loss that looks at each class by itself
            np.divide(found, total, out=found, where=total > 0)
            found[total[:, 0] == 0] = 1 / found.shape[1]
        return found

    @available_if(parameters.gives_probabilities)
    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Natural logarithms of the probabilities of classes.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)

        Returns
        -------
        ndarray, (n, n_classes)
            The logarithm of what `predict_proba` gives.

        Raises
        ------
        AttributeError
            The loss is not one of probabilities.
        """
        return super().predict_log_proba(X)

    # -------------------------------------------------------------- what scikit-learn's code calls

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Self:
        if self.class_weight is not None and y is not None:
            if incremental and isinstance(self.class_weight, str):
                raise ValueError(
                    "class_weight='balanced' needs all labels at once; give partial_fit the weights as a dict, "
                    "or as sample_weight"
                )
            labels = _check_y(y, multi_output=True, estimator=self)
            weight = compute_sample_weight(self.class_weight, labels[:, 0] if labels.shape[1:] == (1,) else labels)
            sample_weight = weight if sample_weight is None else _check_sample_weight(sample_weight, labels) * weight
        return super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)

    def _validated(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        classes = None if incremental or self.warm_start else _classes_of(y)
        if classes is None or len(classes) < 2:
            return super()._validated(X, y, incremental, reset)
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=reset
        )
        binarizer = self._label_binarizer = LabelBinarizer()  # what its `fit` finds out, in a tenth of the time
        binarizer.y_type_, binarizer.sparse_input_ = "multiclass" if len(classes) > 2 else "binary", False
        binarizer.classes_ = self.classes_ = classes
        return X, self._known(y, len(y))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows whose labels are predicted.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        y : array_like, (n,), or (n, labels) of 0 and 1
            The labels. Of a multilabel task all of a row have to be right.
        sample_weight : array_like, (n,), optional

        Returns
        -------
        float

        Raises
        ------
        ValueError
            What scikit-learn's `accuracy_score` refuses.
        """
        found = self.predict(X)
        if sample_weight is None and _classes_of(y) is not None and 2 * len(self.classes_) <= len(y):
            if type(found) is np.ndarray and found.dtype == y.dtype and found.shape == y.shape:
                return _accuracy(y, found)
        return float(accuracy_score(y, found, sample_weight=sample_weight))

    def _predict(self, X: Any, check_input: bool = True) -> Any:
        if self._scikit_serves() or "_forward_pass_fast" in self._passed_over:
            return super()._predict(X, check_input=check_input)
        return self._decided(self._outputs(self._checked(X) if check_input else X))

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return self._score_with_function(X, y, sample_weight=sample_weight, score_function=_accuracy)

    # -------------------------------------------------------------- labels

    def _decided(self, out: NDArray[Any]) -> Any:
        """Labels, of what the network gives."""
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "multiclass" and not binarizer.sparse_input_:
            return binarizer.classes_[out.argmax(1)]
        if binarizer.y_type_ == "binary" and len(binarizer.classes_) == 2 and not binarizer.sparse_input_:
            return binarizer.classes_.take(out[:, 0] > _ZERO)  # where the probability is above one half
        out = (out > 0).astype(out.dtype) if self._link == "identity" else self._linked(out)
        return binarizer.inverse_transform(out.ravel() if out.shape[1] == 1 else out)

    def _known(self, y: Any, n: int) -> NDArray[Any] | None:
        """Labels as the binarizer has them, (n, outputs), where they need none of scikit-learn's checks; else None."""
        binarizer = self._label_binarizer
        classes = binarizer.classes_
        if type(y) is not np.ndarray or y.shape != (n,) or y.dtype != classes.dtype or y.dtype.kind not in "biuU":
            return None
        if binarizer.y_type_ not in ("binary", "multiclass") or binarizer.sparse_input_ or len(classes) < 2:
            return None
        at = np.searchsorted(classes, y)
        if (classes.take(at, mode="clip") != y).any():
            return None
        return at[:, None] == 1 if binarizer.y_type_ == "binary" else at[:, None] == np.arange(len(classes))

    def _encoded(self, y: Any) -> NDArray[Any]:
        """Labels that somebody gave for validation, (n, outputs)."""
        y = y if sparse.issparse(y) else np.asarray(y)
        y = y[:, 0] if y.shape[1:] == (1,) else y
        if y.ndim == 1:
            unknown = np.setdiff1d(y, self.classes_)
            if len(unknown):
                raise ValueError(f"validation_data: y has classes that are not in the training data: {unknown}")
        return self._label_binarizer.transform(y).astype(bool)

    @property
    def _scikit_link(self) -> str:
        return "softmax" if self._kind_of_targets == "multiclass" else "logistic"

    @property
    def _kind_of_targets(self) -> str:
        return self._label_binarizer.y_type_
