"""Types of arguments, for annotations of your own: the names of the tables, and what may stand for them.

A name is a literal, so that a type checker sees one that is misspelt; where a program reads names from elsewhere,
``typing.get_args(fastbp.typing.LossName)`` lists them. tests/test_types.py compares them with the tables.

>>> from fastbp.typing import LossLike
>>> def trained(loss: LossLike) -> fastbp.MLP: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, SupportsFloat, TypeAlias, TypeVar

from numpy import integer
from numpy.typing import ArrayLike, NDArray

from fastbp.initializers import Initializer
from fastbp.optimizers import LBFGS, Rule
from fastbp.rows import Activation, Loss

if TYPE_CHECKING:
    import numpy as np

    from fastbp.mlp import MLP

# ------------------------------------------------------------------ names

ActivationName: TypeAlias = Literal[
    "identity", "relu", "tanh", "sigmoid", "leaky_relu", "softplus", "gelu", "silu", "elu", "selu", "mish",
    "hard_sigmoid", "hard_tanh", "hard_swish", "softsign", "gaussian", "exp", "relu6",
    "logistic", "linear", "swish", "celu",
]  # fmt: skip
LossName: TypeAlias = Literal[
    "mse", "half_squared_error", "softmax_cross_entropy", "binary_cross_entropy", "mae", "huber",
    "log_cosh", "quantile", "poisson", "poisson_deviance", "gamma", "tweedie", "gaussian_nll", "hinge", "squared_hinge",
    "focal", "kl_divergence", "softmax_log_loss", "binary_log_loss",
]  # fmt: skip
OptimizerName: TypeAlias = Literal[
    "sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "lion", "rprop", "lbfgs",
]  # fmt: skip
MetricName: TypeAlias = Literal[
    "accuracy", "balanced_accuracy", "r2", "mae", "rmse",
    "top_1", "top_2", "top_3", "top_4", "top_5", "top_6", "top_7", "top_8", "top_9", "top_10", "top_20", "top_50",
    "top_100",
]  # fmt: skip
InitName: TypeAlias = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "orthogonal",
    "zeros", "torch", "sklearn",
]  # fmt: skip
BiasInitName: TypeAlias = Literal["zeros", "uniform"]
BackendName: TypeAlias = Literal["auto", "cython", "reference", "numba"]
LinkName: TypeAlias = Literal["softmax", "sigmoid"]
MatmulPrecision: TypeAlias = Literal["float32", "bfloat16"]

# ------------------------------------------------------------------ arrays


class HasArray(Protocol):
    """What NumPy makes an array of: an array, a DataFrame, a tensor."""

    def __array__(self) -> NDArray[Any]: ...


class HasDLPack(Protocol):
    """What hands out its memory by DLPack."""

    def __dlpack__(self) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


class Sparse(Protocol):
    """A sparse matrix; `fit`, and what looks at rows as `predict` does, take rows of CSR."""

    @property
    def nnz(self) -> Any: ...

    def toarray(self) -> Any: ...


Array: TypeAlias = ArrayLike | HasDLPack
Rows: TypeAlias = Array | Sparse
# (X, y) or (X, y, sample_weight)
Examples: TypeAlias = tuple[Rows, Array] | tuple[Rows, Array, Array | None] | list[Any]
# Not `ArrayLike`, which has strings: a name that is misspelt would be an array.
Weight: TypeAlias = HasArray | Sequence[Sequence[float]]
Layers: TypeAlias = Sequence[Weight | tuple[Weight, HasArray | Sequence[float]]]

# ------------------------------------------------------------------ what an argument takes

ActivationLike: TypeAlias = ActivationName | Activation
LossLike: TypeAlias = LossName | Loss
OptimizerLike: TypeAlias = OptimizerName | Rule | LBFGS
MetricLike: TypeAlias = MetricName | Callable[[NDArray[Any], NDArray[Any]], SupportsFloat]
InitLike: TypeAlias = InitName | Initializer | Layers | NDArray[Any]
BiasInitLike: TypeAlias = BiasInitName | SupportsFloat | Initializer
SeedLike: TypeAlias = "int | np.random.Generator | np.random.SeedSequence"  # NumPy loads np.random on first use
Sizes: TypeAlias = Sequence[int] | NDArray[integer[Any]]
ClassWeight: TypeAlias = Literal["balanced"] | Mapping[Any, float]  # a key is a label, whatever the type of y's
Batches: TypeAlias = Iterable[Examples]
Networks: TypeAlias = "Sequence[MLP] | Mapping[Any, MLP]"  # in order, or by key
_T = TypeVar("_T")
Each: TypeAlias = Sequence[_T] | Mapping[Any, _T]  # of `fit_many`: one for each network, by key where they have keys
Space: TypeAlias = Mapping[str, Any]  # of `sweep`: for each name a list of values, or a distribution
Folds: TypeAlias = "Splitter | Iterable[tuple[NDArray[integer[Any]], NDArray[integer[Any]]]]"  # rows, held rows
ExecutorLike: TypeAlias = "_Submits | Callable[[], _Submits] | Literal['joblib']"
File: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes]


class Splitter(Protocol):
    """What gives the rows of folds, as scikit-learn's `KFold` does."""

    def split(self, X: Any, y: Any = None) -> Any: ...


class _Submits(Protocol):  # an Executor of `concurrent.futures`, a `distributed.Client`, and others
    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class _OnTrainBegin(Protocol):
    def on_train_begin(self, net: MLP, /) -> object: ...


class _OnEval(Protocol):
    def on_eval(self, net: MLP, logs: dict[str, float], /) -> object: ...


class _OnEpochEnd(Protocol):
    def on_epoch_end(self, net: MLP, logs: dict[str, float], /) -> object: ...


class _OnTrainEnd(Protocol):
    def on_train_end(self, net: MLP, logs: dict[str, float], /) -> object: ...


CallbackLike: TypeAlias = _OnTrainBegin | _OnEval | _OnEpochEnd | _OnTrainEnd  # a `fastbp.Callback` has all four
