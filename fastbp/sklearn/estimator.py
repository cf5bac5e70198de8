"""What both estimators have in common: scikit-learn's classes with their training and their forward pass replaced."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.utils.validation import check_is_fitted, validate_data

from fastbp import backends, losses
from fastbp.backends import absent, config
from fastbp.sklearn import parameters
from fastbp.sklearn.fit import Fit, rows_of
from fastbp.sklearn.kept import NOTHING, Asked, Kept
from fastbp.sklearn.rules import RuleHolder
from fastbp.sklearn.watch import Watch

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from fastbp.mlp import MLP
    from fastbp.spec import Spec

_SHORT = 1 << 12  # numbers
_LOOKED_AT = 1 << 15  # numbers in an X whose checks are made here; of more scikit-learn's take a small share


@cache
def _names_of(kind: Any) -> tuple[str, ...]:
    """The names of a class's parameters, which scikit-learn looks for at each call."""
    return tuple(super(Compiled, kind)._get_param_names())


_NOT_CALLED = ("_backprop", "_forward_pass", "_compute_loss_grad", "_update_no_improvement_count")  # by the kernels
_PASSED_OVER = (  # by the short ways of plain arrays
    "_predict", "_forward_pass_fast", "_outputs", "_fit", "_validate_input", "_initialize", "_fit_stochastic",
)  # fmt: skip


def _overridden(kind: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of scikit-learn's methods or ours that a user's class, or what it inherits, has made its own."""
    ours = ("sklearn", "fastbp")
    return tuple(name for name in names if getattr(kind, name).__module__.partition(".")[0] not in ours)


if TYPE_CHECKING:
    _Scikits: TypeAlias = Any  # one of the two classes; it has no types
else:
    _Scikits = object


class Compiled(_Scikits):
    """Stands before one of scikit-learn's two classes.

    scikit-learn's code checks, draws, holds the state and says what it always says. Here are the loop over epochs
    (`_fit_stochastic`), the forward pass, and what is taken beyond scikit-learn's parameters.
    """

    _scikit: ClassVar[Any]  # the class that this one stands before
    _classifies: ClassVar[bool]
    solver: str
    _scikit_losses: ClassVar[tuple[str, ...]]  # that one's

    # What an object has that was one of scikit-learn's, and was given this class or was unpickled as it.
    class_weight: Any = None
    dropout: Any = 0
    output_activation: Any = None
    optimizer: Any = None
    metrics: Any = ()
    time_limit: float | None = None
    dtype: Any = None
    n_threads: int | None = None
    keep_optimizer_state: bool = False

    fastbp_: dict[str, Any]
    out_activation_: Any

    _uncalled: ClassVar[tuple[str, ...]] = ()  # methods of a user's class that the kernels do not call
    _passed_over: ClassVar[tuple[str, ...]] = ()  # or that the short ways of plain arrays do not call

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        cls._uncalled, cls._passed_over = _overridden(cls, _NOT_CALLED), _overridden(cls, _PASSED_OVER)

    def _take_more(
        self, dropout: Any, output_activation: Any, optimizer: Any, metrics: Any, time_limit: Any, dtype: Any,
        n_threads: Any, keep_optimizer_state: Any,
    ) -> None:  # fmt: skip
        """The parameters beyond scikit-learn's that both classes have."""
        self.dropout = dropout
        self.output_activation = output_activation
        self.optimizer = optimizer
        self.metrics = metrics
        self.time_limit = time_limit
        self.dtype = dtype
        self.n_threads = n_threads
        self.keep_optimizer_state = keep_optimizer_state

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(_names_of(cls))  # type: ignore[arg-type]

    # -------------------------------------------------------------- the network

    def _memory(self) -> Kept:
        kept: Kept | None = self.__dict__.get("_fastbp")
        return self.__dict__.setdefault("_fastbp", Kept()) if kept is None else kept

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.get("_fastbp")
        if kept is not None and kept.live is not None:  # of a callback that writes a pickle
            kept.live.solver.save()
        state = dict(super().__getstate__())
        state.pop("_fastbp", None)
        return state

    def _network(self, dtype: np.dtype[Any]) -> MLP:
        """The network, with `coefs_` and `intercepts_` as they are now."""
        return self._memory().layout(self, dtype).net

    def _outputs(self, X: Any) -> NDArray[Any]:
        """What the network gives for rows that were checked, (n, outputs): predictions but for the link."""
        if X.dtype.kind not in "biuf":  # which scikit-learn's checks let pass, and NumPy refuses
            return super()._forward_pass_fast(X, check_input=False)
        return self._network(self._dtype_for(X)).predict(rows_of(X))

    def _dtype_for(self, X: Any) -> np.dtype[Any]:
        """What scikit-learn computes in: with float32 parameters and a float64 X it is float64."""
        dtype = self.coefs_[0].dtype if self.coefs_[0].dtype.kind == "f" else np.dtype(np.float64)
        if self.dtype is not None or X.dtype == dtype:
            return dtype
        return np.result_type(dtype, X.dtype if X.dtype.kind == "f" else np.float64)

    @property
    def _scikit_link(self) -> str:
        """The activation of the output that scikit-learn gives its loss."""
        raise NotImplementedError

    @property
    def _link(self) -> str:
        """What makes predictions of the network's output; an activation of the output is the network's own."""
        return "identity" if self.output_activation is not None else self.out_activation_

    def _linked(self, out: NDArray[Any]) -> NDArray[Any]:
        """Predictions, in place of the network's output."""
        link = self._link
        if link == "softmax":
            return losses.LINKS[link](out)
        if link == "logistic":
            expit(out, out=out)
        elif link == "exp":
            np.exp(out, out=out)
        return out

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> NDArray[Any]:
        if self._scikit_serves():
            return super()._forward_pass_fast(X, check_input=check_input)
        return self._linked(self._outputs(self._checked(X) if check_input else X))

    def _checked(self, X: Any) -> Any:
        return validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)

    def _quick(self, X: Any) -> NDArray[Any] | None:
        """What the network gives for rows that need none of scikit-learn's checks; None where they may need some."""
        kept = self.__dict__.get("_fastbp")
        if kept is None or kept.last is None or not self._is_plain(X):
            return None
        return kept.layout(self, X.dtype).net.predict(X)

    def _is_plain(self, X: Any) -> bool:
        """Whether scikit-learn would take X, for a fitted estimator, as it is."""
        known = self.__dict__
        coefs = known.get("coefs_")
        if coefs is None or type(X) is not np.ndarray or X.ndim != 2 or "feature_names_in_" in known:
            return False
        if self._passed_over or X.dtype is not coefs[0].dtype or X.dtype.kind != "f":
            return False
        if X.shape[1] != known.get("n_features_in_") or not 0 < X.size <= _LOOKED_AT:
            return False
        numbers = X.ravel()
        # Finite numbers may be so large that this overflows: then scikit-learn looks at them. Of more numbers no
        # product is taken, as OpenBLAS would share it among threads, which spin for a while after it.
        return math.isfinite(numbers.dot(numbers) if numbers.size <= _SHORT else numbers.sum())

    # -------------------------------------------------------------- what serves

    def _scikit_serves(self) -> bool:
        """Whether scikit-learn's code does it all: there is no compiled module, and nothing was asked of fastbp.

        Or a user's class has methods of its own that only that code calls.
        """
        if self._uncalled:
            return True
        if backends.engine() is not None or config.requested_backend("auto") != "auto":
            return False
        further = self._own_arguments() or self.keep_optimizer_state or self.dtype is not None
        return not (further or isinstance(self.__dict__.get("_optimizer"), RuleHolder))

    def _own_arguments(self) -> list[str]:
        """The parameters that scikit-learn's code cannot serve."""
        own = [name for name in ("output_activation", "optimizer", "metrics", "time_limit") if getattr(self, name)]
        if np.any(self.dropout):
            own.append("dropout")
        if self.activation not in parameters.SCIKIT_ACTIVATIONS:
            own.append("activation")
        if self.loss not in self._scikit_losses:
            own.append("loss")
        return own

    # -------------------------------------------------------------- training

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None,
        callbacks: Sequence[Any] | None = None, progress: bool = False,
    ) -> Self:  # fmt: skip
        """Train from new weights, or from those at hand where ``warm_start=True``.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        y : array_like, (n,) or (n, outputs)
            Of a classifier labels, or (n, labels) of 0 and 1.
        sample_weight : array_like, (n,), optional
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Rows to measure the loss and `metrics` on after each epoch. With ``early_stopping=True`` the score on them
            decides, no row is split off, and `validation_fraction` has no effect. The score is accuracy, or R^2, as
            `score` gives it.
        callbacks : sequence, optional
            Objects with some of the methods of `fastbp.Callback`, which are handed this estimator, fitted as far as it
            is. ``logs`` has "epoch" (from 1), "step", "loss", "lr", and of the validation rows "val_loss" and
            "val_<name>" of each metric. `fastbp.StopTraining` ends the run; any other error comes out of `fit`.
            fastbp's own `EarlyStopping`, `Checkpoint` and `TimeLimit` are about a `fastbp.MLP` and are refused.
        progress : bool, default False
            Whether to show a bar, which needs tqdm.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            What scikit-learn refuses; a parameter that does not suit the data; `validation_data` that do not suit X and
            y.
        """
        with self._asked(validation_data, callbacks, progress):
            return super().fit(X, y, sample_weight)

    @contextmanager
    def _asked(self, validation_data: Any = None, callbacks: Any = None, progress: Any = False) -> Iterator[None]:
        """While a call is on that was given these."""
        kept = self._memory()
        if kept.live is not None:
            raise RuntimeError("this estimator is being fitted: neither a callback nor another thread may fit it")
        nothing = validation_data is None and callbacks is None and progress is False
        kept.asked = NOTHING if nothing else Asked(validation_data, Watch(self, callbacks, progress))
        try:
            yield
        finally:
            kept.asked = NOTHING

    def _check_solver(self) -> bool:
        return self.optimizer is not None or super()._check_solver()

    def _validated(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """What scikit-learn makes of them."""
        checked: tuple[Any, Any] = super()._validate_input(X, y, incremental, reset)
        return checked

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = self._validated(X, y, incremental, reset)
        if self.dtype is None or X.dtype == self.dtype:
            return X, y
        with np.errstate(over="ignore"):
            made = X.astype(self.dtype)
        if not np.isfinite(made.data if sparse.issparse(made) else made).all():
            raise ValueError(f"Input X contains a value too large for dtype={np.dtype(self.dtype).name!r}.")
        return made, y

    def _initialize(self, y: Any, layer_units: list[int], dtype: Any) -> None:
        solver: str = self.solver
        if self.optimizer is not None:
            self.solver = "adam"  # for the attributes that its kind of solver keeps
        try:
            super()._initialize(y, layer_units, dtype)
        finally:
            self.solver = solver
        if self.output_activation is not None:
            self.out_activation_ = self.output_activation
        elif self.loss not in self._scikit_losses:
            self.out_activation_ = self._head(self._network(np.dtype(dtype))._spec).link

    def _head(self, network: Spec) -> parameters.Head:
        """How the network's output becomes predictions, and how far it is off."""
        if self.loss not in self._scikit_losses:
            head = parameters.own_head(self.loss, network, self._kind_of_targets)
        else:
            head = parameters.scikit_head(self._scikit_link, self.n_outputs_, float(np.finfo(network.dtype).eps))
        if self.output_activation is not None and head.link != "identity":
            raise ValueError(
                f"output_activation: the loss {self.loss!r} is of outputs that have their own, {head.link!r}; "
                "leave it None, or take another loss"
            )
        return head

    def _fit_lbfgs(self, X: Any, y: Any, sample_weight: Any, *arrays: Any) -> None:
        if self.optimizer is not None:
            Fit(self, X, y, sample_weight, False).go()
            return
        own = self._own_arguments()
        own += ["validation_data, callbacks or progress"] if self._memory().asked is not NOTHING else []
        if own:
            raise ValueError(
                f"solver='lbfgs' is scikit-learn's own code, which does not take {', '.join(own)}; solver='adam' does"
            )
        self.fastbp_ = {"ran": "scikit-learn", "why": "solver='lbfgs' is scikit-learn's own code"}
        super()._fit_lbfgs(X, y, sample_weight, *arrays)

    def _fit_stochastic(
        self, X: Any, y: Any, sample_weight: Any, activations: Any, deltas: Any, coef_grads: Any, intercept_grads: Any,
        layer_units: Any, incremental: bool,
    ) -> None:  # fmt: skip
        own = self._uncalled
        asked = self._memory().asked is not NOTHING
        if not self._scikit_serves() or (asked and not own):
            Fit(self, X, y, sample_weight, incremental).go()
            return
        if own:
            why = f"{type(self).__name__} has its own {', '.join(own)}, which only scikit-learn's code calls"
            further = self._own_arguments() + (["validation_data, callbacks or progress"] if asked else [])
            if further:
                raise ValueError(f"{why}, and that does not take {', '.join(further)}")
            warnings.warn(f"{why}: it trains this estimator, without fastbp's kernels", stacklevel=2)
        else:
            why = str(backends.missing("cython"))
            absent.warn_once()
        self.fastbp_ = {"ran": "scikit-learn", "why": why}
        super()._fit_stochastic(
            X, y, sample_weight, activations, deltas, coef_grads, intercept_grads, layer_units, incremental
        )

    def _goes_on_with(self, X: Any) -> bool:
        """Whether `partial_fit` may go on with X without scikit-learn's checks."""
        if not hasattr(self, "_optimizer") or self.dtype is not None or self._scikit_serves():
            return False
        sizes = self.hidden_layer_sizes
        if type(sizes) is not tuple or min(sizes, default=1) < 1 or self.solver not in ("adam", "sgd"):
            return False  # what `fit` says of these
        return self._is_plain(X)

    def _go_on(self, X: NDArray[Any], y: NDArray[Any]) -> Any:
        """`partial_fit` on what needs no check; what comes after those in scikit-learn's `_fit`."""
        self._random_state = self._memory().seeded(self.random_state)
        fit = Fit(self, X, y, None, True)
        fit.go()
        if not fit.is_finite:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    # -------------------------------------------------------------- what the network says

    def input_gradient(self, X: Any, output: Any = None) -> NDArray[Any]:
        """The gradient of an output by the inputs, for each row of X: which inputs move the answer, and how.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        output : int or array_like of int, (n,), optional
            Which output: one for all rows, or one for each row. A network with one output needs none. Of a classifier
            with three classes or more, output k is that of ``classes_[k]``; with two classes there is one output, that
            of ``classes_[1]``.

        Returns
        -------
        ndarray, (n, features)
            Element [m, i] is d output / d X[m, i]. The output is what comes before softmax, sigmoid or exponential: a
            logit of a classifier, a prediction of a regressor.

        Raises
        ------
        ValueError
            `output` is not there, or it is not given and there are several.
        NotFittedError
            The estimator is not fitted.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from fastbp.sklearn import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> net = MLPClassifier((10,), learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
        >>> net.input_gradient(X, output=2).shape
        (150, 4)
        """
        check_is_fitted(self)
        X = self._checked(X)
        return self._network(self._dtype_for(X)).input_gradient(rows_of(X), output)

    def transform_hidden(self, X: Any, layer: int = -1) -> NDArray[Any]:
        """What a hidden layer gives, after its activation: the features that the network has made of X.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        layer : int, default -1
            Of the hidden layers, from 0, or from -1 backwards: -1 is the last one, whose numbers the output layer gets.

        Returns
        -------
        ndarray, (n, width of the layer)

        Raises
        ------
        ValueError
            There is no such hidden layer.
        NotFittedError
            The estimator is not fitted.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from fastbp.sklearn import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> net = MLPClassifier((10, 3), learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
        >>> net.transform_hidden(X).shape, net.transform_hidden(X, 0).shape
        ((150, 3), (150, 10))
        """
        check_is_fitted(self)
        X = self._checked(X)
        return self._network(self._dtype_for(X)).hidden(rows_of(X), layer)

    # -------------------------------------------------------------- to scikit-learn and back

    def to_sklearn(self) -> Any:
        """scikit-learn's estimator with these parameters, weights and state: for those who have no fastbp.

        Nothing is trained. Fitted or not, it goes on where this one stands.

        Returns
        -------
        MLPClassifier or MLPRegressor of ``sklearn.neural_network``
            It shares no array with this one.

        Raises
        ------
        ValueError
            A parameter is set that scikit-learn's code cannot serve, such as `dropout` or `optimizer`; the message
            names it.
        """
        own = self._own_arguments()
        if own:
            given = ", ".join(f"{name}={getattr(self, name)!r}" for name in own)
            raise ValueError(f"scikit-learn's estimator cannot serve {given}: this one cannot become it")
        made = self._scikit.__new__(self._scikit)
        names = {*self._get_param_names()} - {*self._scikit._get_param_names(), "loss"}
        made.__dict__.update(
            (name, value) for name, value in copy.deepcopy(self.__getstate__()).items()
            if name not in names and name != "fastbp_"
        )  # fmt: skip
        if isinstance(getattr(made, "_optimizer", None), RuleHolder):
            del made._optimizer
        return made

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Any:
        """An estimator of this class with the parameters, weights and state of one of scikit-learn's.

        Nothing is trained.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor of ``sklearn.neural_network``
            Fitted or not; of the kind of this class.

        Returns
        -------
        estimator of this class
            It shares no array with the one given.

        Raises
        ------
        TypeError
            `estimator` is of another kind.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.neural_network import MLPClassifier as Theirs
        >>> from fastbp.sklearn import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> theirs = Theirs((10,), learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
        >>> ours = MLPClassifier.from_sklearn(theirs)
        >>> bool((ours.predict(X) == theirs.predict(X)).all()), type(ours.to_sklearn()) is Theirs
        (True, True)
        """
        if not isinstance(estimator, cls._scikit):
            raise TypeError(f"estimator must be one of scikit-learn's {cls._scikit.__name__}, got {estimator!r}")
        made = cls(**estimator.get_params(deep=False))
        state = copy.deepcopy(estimator.__getstate__())
        state.pop("_sklearn_version", None)
        made.__dict__.update(state)
        return made
