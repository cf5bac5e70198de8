"""`GroupedMLPClassifier` and `GroupedMLPRegressor`: a network for each group of rows."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_X_y
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from fastbp import checks
from fastbp.many.predict import predict_many
from fastbp.mlp import MLP
from fastbp.sklearn import parameters
from fastbp.sklearn.together import OTHER_ARGUMENTS, SEEDS, Together

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from fastbp.optimizers import Rule
    from fastbp.rows import Loss
    from fastbp.typing import ActivationLike, ExecutorLike

    _ClassifierMixin: TypeAlias = Any  # they have no types
    _RegressorMixin: TypeAlias = Any
else:
    from sklearn.base import ClassifierMixin as _ClassifierMixin
    from sklearn.base import RegressorMixin as _RegressorMixin

_FLOATS = np.float64, np.float32
_GLOBAL = -1  # the number of the network of all rows, and of rows whose key has no network


def _is_missing(key: Any) -> bool:
    """Whether a key is None, NaN, NaT or pandas' NA, or has one of them in it."""
    if isinstance(key, tuple):
        return any(map(_is_missing, key))
    try:
        return key is None or bool(key != key)
    except TypeError:  # as pandas' NA says
        return True


def _sorted(keys: Sequence[Hashable]) -> list[Any]:
    """Keys in ascending order; those of several kinds as they come."""
    try:
        return sorted(keys)
    except TypeError:
        return list(keys)


class _Grouped(Together):
    """What both have in common."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Together._parameter_constraints,
        "fallback": [StrOptions({"global", "raise"})],
    }

    by: Any
    fallback: str
    groups_: list[Any]
    networks_: dict[Any, MLP]
    global_network_: MLP | None
    without_network_: dict[Any, str]

    # -------------------------------------------------------------- keys and features

    def _parts(self, X: Any) -> tuple[list[Any], Any]:
        """The key of each row, and the features without the columns of `by`."""
        wanted = list(self.by) if isinstance(self.by, (list, tuple)) else [self.by]
        if hasattr(X, "columns"):
            names = list(X.columns)
            wanted = [_place(one, names) for one in wanted]
            columns = [X[names[at]].to_list() for at in wanted]
            others = X[[name for at, name in enumerate(names) if at not in wanted]]
        else:
            X = X if isinstance(X, np.ndarray) else np.array(X, dtype=object)
            if X.ndim != 2:
                raise ValueError(f"Expected 2D array, got an array of shape {X.shape}")
            wanted = [_place(one, [None] * X.shape[1]) for one in wanted]
            columns = [X[:, at].tolist() for at in wanted]
            others = np.delete(X, wanted, axis=1)
        if not wanted:
            raise ValueError("by is empty; it names the column, or the columns, that hold the group of each row")
        if not others.shape[1]:
            raise ValueError("X has no column beside those of `by`, which leaves no feature to learn from")
        return list(zip(*columns)) if isinstance(self.by, (list, tuple)) else columns[0], others

    __metadata_request__fit: ClassVar[dict[str, str]] = {"executor": UNUSED}

    @checks.names_arguments(OTHER_ARGUMENTS)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, executor: ExecutorLike | None = None) -> Self:
        """Train a network for each group, and with ``fallback="global"`` one for all rows, together.

        Parameters
        ----------
        X : data frame or array_like, (n, columns)
            Features, which are numbers, and the columns of `by`.
        y : array_like, (n,), or of a regressor (n, outputs)
            Labels, or numbers.
        sample_weight : array_like, (n,), optional
        executor : optional
            Who trains the networks, as for `fastbp.fit_many`: a pool of processes, a cluster. The result is the same.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A parameter, X or y is none that can be used; with ``fallback="raise"`` also a group that can have no
            network, which is named.

        Warns
        -----
        ConvergenceWarning
            Networks reached `max_iter` before they converged: one warning, which says how many did.
        """
        self._validate_params()
        keys, features = self._parts(X)
        validate_data(self, X, skip_check_array=True)
        features, y = check_X_y(
            features, y, dtype=_FLOATS, multi_output=not self._classifies, y_numeric=not self._classifies,
            estimator=self,
        )  # fmt: skip
        targets = self._targets(y)
        weight = self._weight(sample_weight, features, y)
        seed = int(check_random_state(self.random_state).randint(0, SEEDS))  # one: no network depends on other groups
        found: dict[Any, list[int]] = {}
        for row, key in enumerate(keys):
            found.setdefault(None if _is_missing(key) else key, []).append(row)
        self.without_network_ = {}
        if None in found:
            self._no_network(None, f"that of row {found.pop(None)[0]} is missing")
        self.groups_ = _sorted(list(found))
        names, rows, held = [], [], []
        for key in self.groups_:
            of_group = np.array(found[key])
            left, out = self._held_back(of_group, seed)
            if self._classifies and (targets[of_group] == targets[of_group[0]]).all():
                label = self.classes_.tolist()[targets[of_group[0]]]
                self._no_network(key, f"all its rows are of one class, {label!r}")
            elif self.early_stopping and len(of_group) < 2:
                self._no_network(key, "it has one row alone, and early_stopping holds back one at least")
            elif weight is not None and not all(weight[part].any() for part in (left, out) if len(part)):
                which = " that early_stopping leaves, or holds back," if len(out) else ""
                self._no_network(key, f"sample_weight is zero for all its rows{which}")
            else:
                names.append(key)
                rows.append(left)
                held.append(out)
        if self.fallback == "global":
            every = np.arange(len(features))
            out = np.sort(np.concatenate(held)) if held else self._held_back(every, seed)[1]
            rows.append(np.delete(every, out))
            held.append(out)
        nets = self._networks(features.shape[1], [seed] * len(rows), self._dtype_for(features))
        called = [*(f"the network of the group {key!r}" for key in names), "the network of all rows"]
        held_back = held if self.early_stopping else None
        history = self._train(nets, features, targets, weight, rows, held_back, called, executor)
        self._keep(names, nets, history.errors)
        if self._classifies:
            seen = np.array([np.isin(np.arange(len(self.classes_)), targets[np.concatenate(both)])
                             for both in zip(rows, held)])  # fmt: skip
            self._seen = seen[[k for k in range(len(nets)) if k not in history.errors]]
        return self

    def _held_back(self, rows: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Some rows as those to train on and, with `early_stopping`, those to measure on."""
        if not self.early_stopping:
            return rows, rows[:0]
        mixed = np.random.RandomState(seed).permutation(rows)
        n_held = max(1, int(self.validation_fraction * len(rows)))
        return np.sort(mixed[n_held:]), np.sort(mixed[:n_held])

    def _keep(self, names: list[Any], nets: list[MLP], errors: dict[int, Exception]) -> None:
        """The networks that came out well."""
        self.global_network_ = nets[len(names)] if self.fallback == "global" else None
        if len(names) in errors:
            raise ValueError(f"the network of all rows diverged: {errors[len(names)]}; scaled features help "
                             "as well")  # fmt: skip
        for k, error in errors.items():
            self._no_network(names[k], f"it diverged: {error}")
        if errors:
            warnings.warn(f"The networks of {len(errors)} groups diverged, {names[next(iter(errors))]!r} first; they "
                          "take that of all rows. without_network_ has the reasons", ConvergenceWarning,
                          stacklevel=4)  # fmt: skip
        self.networks_ = {key: nets[k] for k, key in enumerate(names) if k not in errors}

    def _no_network(self, key: Any, why: str) -> None:
        """A group cannot have a network of its own: note it, or raise."""
        if self.fallback == "raise":
            what = "a key" if key is None else f"the group {key!r}"
            raise ValueError(f"by: {what} cannot have a network: {why}; fallback='global' takes that of all rows")
        self.without_network_[key] = why

    # -------------------------------------------------------------- predictions

    def _predicted(self, X: Any) -> NDArray[Any]:
        """Predictions, or probabilities of all classes, of each row by its network, (n, outputs)."""
        check_is_fitted(self, "networks_")
        keys, features = self._parts(X)
        validate_data(self, X, skip_check_array=True, reset=False)
        features = check_array(features, dtype=_FLOATS, estimator=self)
        place = {key: k for k, key in enumerate(self.networks_)}
        number = np.array([place.get(key, _GLOBAL) for key in keys])
        nets = dict(enumerate(self.networks_.values()))
        if self.global_network_ is not None:
            nets[_GLOBAL] = self.global_network_
        elif (number == _GLOBAL).any():
            row = int(np.argmax(number == _GLOBAL))
            raise ValueError(f"by: there is no network for the key {keys[row]!r}, which row {row} has; "
                             "fallback='global' takes that of all rows")  # fmt: skip
        out = predict_many(nets, features, by=number, n_threads=self.n_threads)
        with np.errstate(over="ignore"):
            return self._linked(out, self._seen[number] if self._classifies else None)


def _place(column: Any, names: Sequence[Any]) -> int:
    """The number of a column that is given by name, or by number where no column has that name."""
    if column in names:
        return list(names).index(column)
    if isinstance(column, (int, np.integer)) and not isinstance(column, bool):
        if -len(names) <= column < len(names):
            return int(column) % len(names)
        raise ValueError(f"by: there is no column {column}; X has {len(names)}")
    if all(name is None for name in names):
        raise ValueError(f"by={column!r} is the name of a column, and X is no data frame; give the column's number, or "
                         "call .set_output(transform='pandas') on the step before")  # fmt: skip
    raise ValueError(f"by: X has no column {column!r}; it has {', '.join(map(repr, names))}")


class GroupedMLPClassifier(_ClassifierMixin, _Grouped):
    """A classifier with a network for each group of rows, such as each shop; all are trained by one call.

    The column `by` says of each row which group it is in, and is no feature. A row whose group has no network goes
    through that of all rows.

    Parameters
    ----------
    by : str, int, or sequence of them
        The column of X that holds the keys of groups, by name or by number; of several the groups are the tuples. Keys
        are anything that can be hashed. X may be a frame of pandas or polars, or an array; scaling the features is up
        to you, as in ``make_column_transformer((StandardScaler(), ["price"]), remainder="passthrough")``.
    fallback : {"global", "raise"}, default "global"
        What becomes of a row whose key was not there in `fit` or is missing, and of groups that cannot have a network:
        all rows of one class, one row with `early_stopping`, or training diverged. "global": a network that is trained
        on all rows beside the others serves them. "raise": a ValueError that names the key.
    hidden_layer_sizes, activation, dropout, loss, class_weight : as in `MLPEnsembleClassifier`
    optimizer, learning_rate_init, batch_size, max_iter, shuffle : as in `MLPEnsembleClassifier`
    tol, n_iter_no_change, dtype, n_threads, lanes : as in `MLPEnsembleClassifier`
        ``class_weight="balanced"`` is by the classes of all rows.
    early_stopping : bool, default False
        Whether to hold back some rows of each group, and to stop its network once the loss on them gets no better. The
        network of all rows has those of all groups held back.
    validation_fraction : float, default 0.1
        The share of a group's rows held back; one row at least.
    random_state : int, RandomState or None, default None
        Draws one seed for all networks, so that none depends on what other groups there are.

    Attributes
    ----------
    groups_ : list
        The keys in `fit`, in ascending order.
    networks_ : dict of fastbp.MLP by key
        What their `predict` gives are logits, (n, 1) for two classes and else (n, n_classes).
    global_network_ : fastbp.MLP or None
        The network of all rows.
    without_network_ : dict of str by key
        Groups of `fit` that take the fallback, with the reason. The key None stands for missing ones.
    classes_ : ndarray, (n_classes,)
        Of all rows.
    history_ : fastbp.ManyHistory
        Losses, steps and ends of the networks, that of all rows last.
    n_iter_ : int
        Epochs of the network with the most.
    n_features_in_, feature_names_in_ : as in scikit-learn
        With the columns of `by`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.sklearn import GroupedMLPClassifier
    >>> rng = np.random.default_rng(0)
    >>> shop, price = np.repeat([7, 8], 50), rng.normal(size=100)
    >>> bought = np.where(shop == 7, price < 0, price > 0)  # the dearer, the better it sells in shop 8
    >>> X = np.column_stack([shop, price])
    >>> model = GroupedMLPClassifier(by=0, hidden_layer_sizes=(8,), learning_rate_init=0.01, random_state=0)
    >>> model = model.fit(X, bought)
    >>> model.groups_, model.predict([[7, 2.0], [8, 2.0]]).tolist()
    ([7.0, 8.0], [False, True])
    """

    __module__ = "fastbp.sklearn"

    _classifies = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Grouped._parameter_constraints,
        **{name: parameters.OF_CLASSIFIERS[name] for name in ("loss", "class_weight")},
    }

    def __init__(
        self, by: Any, *, fallback: Literal["global", "raise"] = "global",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", dropout: float | Sequence[float] = 0,
        loss: str | Loss = "log_loss", class_weight: Any = None, optimizer: str | Rule = "adam",
        learning_rate_init: float | None = None, batch_size: int | str = "auto", max_iter: int = 200,
        shuffle: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1, tol: float = 1e-4,
        n_iter_no_change: float = 10, random_state: Any = None, dtype: str | type | None = None,
        n_threads: int | None = None, lanes: Literal["auto"] | bool = "auto",
    ) -> None:  # fmt: skip
        self._take(locals())

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels of rows, each by the network of its group.

        Parameters
        ----------
        X : data frame or array_like, (n, columns)
            As in `fit`.

        Returns
        -------
        ndarray, (n,)

        Raises
        ------
        ValueError
            X cannot be used; or with ``fallback="raise"`` a key has no network, and is named.
        """
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of classes, each row's by the network of its group.

        Parameters
        ----------
        X : data frame or array_like, (n, columns)

        Returns
        -------
        ndarray, (n, n_classes)
            A column for each of `classes_`. A class that no row of a group had in `fit` has the probability 0 there.
        """
        return self._predicted(X)

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Natural logarithms of the probabilities.

        Parameters
        ----------
        X : data frame or array_like, (n, columns)

        Returns
        -------
        ndarray, (n, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


class GroupedMLPRegressor(_RegressorMixin, _Grouped):
    """A regressor with a network for each group of rows, such as each shop; all are trained by one call.

    The column `by` says of each row which group it is in, and is no feature. A row whose group has no network goes
    through that of all rows.

    Parameters
    ----------
    by, fallback, early_stopping, validation_fraction, random_state : as in `GroupedMLPClassifier`
    hidden_layer_sizes, activation, dropout, loss, optimizer : as in `MLPEnsembleRegressor`
    learning_rate_init, batch_size, max_iter, shuffle, tol : as in `MLPEnsembleRegressor`
    n_iter_no_change, dtype, n_threads, lanes : as in `MLPEnsembleRegressor`
        Scaling the targets is up to you: ``sklearn.compose.TransformedTargetRegressor`` does it.

    Attributes
    ----------
    networks_ : dict of fastbp.MLP by key
        Their `predict` gives (n, outputs), and logarithms after a loss of counts.
    groups_, global_network_, without_network_, history_, n_iter_ : as in `GroupedMLPClassifier`
    n_features_in_, feature_names_in_ : as in `GroupedMLPClassifier`
    n_outputs_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.sklearn import GroupedMLPRegressor
    >>> rng = np.random.default_rng(0)
    >>> shop, price = np.repeat([7, 8], 50), rng.normal(size=100)
    >>> sold = np.where(shop == 7, -price, price)
    >>> model = GroupedMLPRegressor(by=0, hidden_layer_sizes=(8,), learning_rate_init=0.01, random_state=0)
    >>> model = model.fit(np.column_stack([shop, price]), sold)
    >>> model.predict([[7, 1.0], [8, 1.0]]).round().tolist()
    [-1.0, 1.0]
    """

    __module__ = "fastbp.sklearn"

    _classifies = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Grouped._parameter_constraints, "loss": parameters.OF_REGRESSORS["loss"]
    }  # fmt: skip

    def __init__(
        self, by: Any, *, fallback: Literal["global", "raise"] = "global",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", dropout: float | Sequence[float] = 0,
        loss: str | Loss = "squared_error", optimizer: str | Rule = "adam", learning_rate_init: float | None = None,
        batch_size: int | str = "auto", max_iter: int = 200, shuffle: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, tol: float = 1e-4, n_iter_no_change: float = 10, random_state: Any = None,
        dtype: str | type | None = None, n_threads: int | None = None, lanes: Literal["auto"] | bool = "auto",
    ) -> None:  # fmt: skip
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any) -> NDArray[Any]:
        """Targets of rows, each by the network of its group.

        Parameters
        ----------
        X : data frame or array_like, (n, columns)
            As in `fit`.

        Returns
        -------
        ndarray, (n,), or (n, outputs) where there are several

        Raises
        ------
        ValueError
            X cannot be used; or with ``fallback="raise"`` a key has no network, and is named.
        """
        return self._shaped(self._predicted(X))
