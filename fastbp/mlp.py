"""MLP: one parameter buffer, and the verbs on it."""

from __future__ import annotations

import copy
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from fastbp import backends, checks, losses, spec
from fastbp.backends.again import Memory
from fastbp.backends.plan import BLOCK_ROWS, Programs, make_plan, room
from fastbp.backends.protocol import DONE, Plan, Program, total_weight
from fastbp.data import arguments
from fastbp.data.examples import Examples as CheckedExamples
from fastbp.data.examples import examples as make_examples
from fastbp.data.samples import Samples
from fastbp.errors import NonFiniteError
from fastbp.history import History
from fastbp.optimizers import LBFGS, SGD
from fastbp.rows import Activation, Loss
from fastbp.schedules import rates_at
from fastbp.training.run import Run, culprit
from fastbp.training.state import TrainingState

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from fastbp.inspection.trace import Trace
    from fastbp.typing import (
        ActivationLike,
        Array,
        BackendName,
        Batches,
        BiasInitLike,
        CallbackLike,
        ClassWeight,
        Examples,
        File,
        InitLike,
        LinkName,
        LossLike,
        MatmulPrecision,
        MetricLike,
        OptimizerLike,
        Rows,
        SeedLike,
        Sizes,
    )

_OTHER_ARGUMENTS = {  # what other libraries call those of MLP: see `fastbp.errors`
    "sizes names all layers, as in fastbp.MLP((n_features, 100, n_outputs))": (
        "layers", "layer_sizes", "hidden_layer_sizes", "hidden_sizes", "units",
    ),
    "activation": ("hidden_activation", "act", "nonlinearity"),
    "output_activation": ("final_activation", "out_activation"),
    "bias": ("use_bias", "fit_intercept"),
    "init": ("kernel_initializer", "weight_init", "initializer"),
    "bias_init": ("bias_initializer",),
    "seed": ("random_state", "rng", "random_seed"),
    "dropout": ("dropout_rate", "drop_rate"),
    "that is an argument of fit, as in net.fit(X, y, loss=..., optimizer=fastbp.Adam(lr=0.01), epochs=10)": (
        "lr", "learning_rate", "learning_rate_init", "optimizer", "solver", "loss", "batch_size", "epochs", "max_iter",
        "momentum", "alpha", "weight_decay", "early_stopping", "validation_fraction",
    ),
}  # fmt: skip
_OTHER_ARGUMENTS_OF_FIT = {
    "epochs": ("n_epochs", "nb_epoch", "num_epochs", "max_epochs", "max_iter"),
    "steps": ("n_steps", "num_steps", "iterations", "n_iter"),
    "loss": ("loss_fn", "criterion", "objective"),
    "validation_split": ("validation_fraction", "val_split", "test_size"),
    "validation_data": ("val_data", "eval_set"),
    "n_threads": ("n_jobs", "num_threads", "workers"),
    "seed": ("random_state", "rng", "random_seed"),
    "sample_weight": ("sample_weights", "weights"),
    "the learning rate is the optimizer's, as in optimizer=fastbp.Adam(lr=0.01)": (
        "lr", "learning_rate", "learning_rate_init", "momentum", "weight_decay",
    ),
    "callbacks=[fastbp.EarlyStopping()] stops a run early": ("early_stopping", "patience", "n_iter_no_change", "tol"),
}  # fmt: skip
_REST_OF_FIT = None, None, None, None, "raise", (), None, False, 0, None, None, "raise", None  # its defaults
_NOTHING_WAITS = (), None, False, 0, None, None  # for a step of `fit`, by its defaults


class MLP:
    """A dense feed-forward network, trained by back-propagation.

    Parameters
    ----------
    sizes : sequence of int
        Features of the input, of each hidden layer, of the output; at least two.
    activation : str, row, or sequence of them, default "relu"
        Of the hidden layers: one for all, or one per hidden layer. See `fastbp.activations`.
    output_activation : str or row, default "identity"
    bias : bool, default True
    dtype : floating-point dtype, default float32
        The compiled kernels serve float32 and float64; the reference backend any.
    init : str, callable or sequence, default "glorot_uniform"
        A name of `fastbp.initializers`; a callable ``(rng, in_features, out_features) -> array``; or one array, or
        one ``(weight, bias)`` tuple, per layer. "torch" and "sklearn" begin as `torch.nn.Linear` and scikit-learn's
        `MLPClassifier` do.
    bias_init : str, float, callable or None, default None
        How biases start. None is what `init` says: at 0, but for "torch", "sklearn" and the ``(weight, bias)`` tuples,
        which say their own. Else it wins: "zeros"; "uniform", between -1 and 1 over sqrt(in_features); a number; or a
        callable ``(rng, in_features, out_features) -> array (out_features,)``. What biases draw changes no weight.
        With arrays in `init`, or ``bias=False``, a ValueError.
    seed : int, numpy.random.Generator, numpy.random.SeedSequence or None
        Seeds initialisation, dropout and the order of rows; an integer is from 0 to 2**64 - 1. A Generator gives one
        draw and moves on, a SeedSequence stays as it is, None draws from the operating system: ``net.seed`` is the
        integer that it came to.
    backend : str, default "auto"
    dropout : float or sequence of float, default 0.0
        The share of each hidden layer's outputs that a training step sets to 0, the others being scaled up (Srivastava
        et al., 2014): one for all, or one per hidden layer, in steps of 2**-16, below 1. Which they are is a function
        of the seed and ``net.step``. It acts in `fit` and `train_step` alone.
    input_dropout : float, default 0.0
        The same of the input.
    matmul_precision : {"float32", "bfloat16"}, default "float32"
        Of the matrix products in the training steps of `fit` and `train_step`, with dtype float32. "bfloat16" rounds
        what they multiply to 8 bits and adds up in float32; parameters, loss and the optimizer stay in float32, and
        all other calls compute in float32. It is faster on a CPU with AVX512-BF16, from layers of about 64 units on;
        on another one training raises a RuntimeError. See docs/precision.md.

    Attributes
    ----------
    weights, biases : tuple of ndarray
        Writable views, (in_features, out_features) and (out_features,), per layer: ``z = x @ weight + bias``.
    grad_weights, grad_biases : tuple of ndarray
        What `backward` filled, in the same shapes.
    params, grads : ndarray
        The whole buffers behind the views. Rows are padded; what is written into padding is ignored.
    step : int
        Training steps done.
    frozen : tuple of (bool, bool)
        For each layer whether training leaves its weight and its bias alone: see `freeze`.
    n_params : int
        Parameters, padding not counted.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    >>> net = fastbp.MLP((2, 4, 1), activation="tanh", seed=0)
    >>> history = net.fit(X, X[:, :1] != X[:, 1:], optimizer=fastbp.SGD(lr=0.5), batch_size=4, steps=2000)
    >>> net.predict(X).shape
    (4, 1)
    """

    @checks.names_arguments(_OTHER_ARGUMENTS)
    def __init__(
        self,
        sizes: Sizes,
        *,
        activation: ActivationLike | Sequence[ActivationLike] = "relu",
        output_activation: ActivationLike = "identity",
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        init: InitLike = "glorot_uniform",
        bias_init: BiasInitLike | None = None,
        seed: SeedLike | None = None,
        backend: BackendName = "auto",
        dropout: float | Sequence[float] | NDArray[Any] = 0.0,
        input_dropout: float = 0.0,
        matmul_precision: MatmulPrecision = "float32",
    ) -> None:
        self._spec = spec.make_spec(
            sizes, activation, output_activation, bias, dtype, dropout, input_dropout, matmul_precision
        )
        self._trains = self._spec.all_train
        self._backend: BackendName = checks.choice("backend", backend, ("auto", *backends.NAMES))
        seed = checks.seed(seed)
        arrays = spec.initial_arrays(self._spec, init, bias_init, seed)
        self._bind(TrainingState(self._spec, seed))
        with np.errstate(all="ignore"):  # the cast may overflow or underflow
            for layer, (weight, initial_bias) in zip(self._spec.layers, arrays):
                layer.weight_in(self._params)[...] = weight
                if initial_bias is not None and (of_layer := layer.bias_in(self._params)) is not None:
                    of_layer[...] = initial_bias

    def _bind(self, state: TrainingState) -> None:
        """Allocate the buffer and everything that refers to it."""
        self._params = spec.aligned_zeros(self._spec.buffer_size, self._spec.dtype)
        self._grads: NDArray[Any] | None = None
        self._state = state
        self._programs = Programs(self._params)
        self._training = threading.Lock()
        self._trainer: int | None = None  # the thread that trains
        self._run: Run | None = None  # the one that is training, where it calls back
        self._pending: list[tuple[Program, int]] = []  # program and rows of the last `forward`, if it is not void
        self._again = Memory(self._spec, self._programs, state, self._training, self._pending, self._backend)
        self._views: tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]] | None = None  # `weights`, `biases`

    # -------------------------------------------------------------- what it is

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features of the input, of each hidden layer, of the output."""
        return self._spec.sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters, outputs and gradients."""
        return self._spec.dtype

    @property
    def matmul_precision(self) -> MatmulPrecision:
        """The precision of the matrix products in training steps: "float32" or "bfloat16"."""
        return self._spec.matmul_precision  # type: ignore[return-value]  # checked, and kept as a str

    @property
    def backend(self) -> BackendName:
        """The network's own choice: see `fastbp.set_backend`."""
        return self._backend

    @property
    def n_params(self) -> int:
        """Parameters, padding not counted."""
        return self._spec.n_params

    @property
    def weights(self) -> tuple[NDArray[Any], ...]:
        """Writable views of the weights, (in_features, out_features), per layer."""
        return (self._views or self._views_of_params())[0]

    @property
    def biases(self) -> tuple[NDArray[Any], ...]:
        """Writable views of the biases, (out_features,), per layer; none with ``bias=False``."""
        return (self._views or self._views_of_params())[1]

    def _views_of_params(self) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
        """Made when first asked for: they are larger than the parameters of a small network that is idle."""
        layers, params = self._spec.layers, self._params
        biases = tuple(bias for layer in layers if (bias := layer.bias_in(params)) is not None)
        self._views = views = tuple(layer.weight_in(params) for layer in layers), biases
        return views

    @property
    def params(self) -> NDArray[Any]:
        """The whole buffer behind `weights` and `biases`. Rows are padded."""
        return self._params

    @property
    def step(self) -> int:
        """Training steps done."""
        return self._state.step

    @property
    def epoch(self) -> int:
        """Epochs that `fit` has finished."""
        return self._state.epoch

    @property
    def seed(self) -> int:
        """The seed of the order of rows, and of dropout."""
        return self._state.seed

    @property
    def frozen(self) -> tuple[tuple[bool, bool], ...]:
        """For each layer whether training leaves its weight and its bias alone: see `freeze`."""
        return tuple((not weight, not bias) for weight, bias in self._trains)

    @property
    def grads(self) -> NDArray[Any]:
        """The whole buffer behind `grad_weights` and `grad_biases`, as `params` has it."""
        if self._grads is None:
            self._grads = spec.aligned_zeros(self._spec.buffer_size, self._spec.dtype)
        return self._grads

    @property
    def grad_weights(self) -> tuple[NDArray[Any], ...]:
        """What `backward` filled: views of the gradients of `weights`."""
        return tuple(layer.weight_in(self.grads) for layer in self._spec.layers)

    @property
    def grad_biases(self) -> tuple[NDArray[Any], ...]:
        """What `backward` filled: views of the gradients of `biases`."""
        return tuple(bias for layer in self._spec.layers if (bias := layer.bias_in(self.grads)) is not None)

    def __repr__(self) -> str:
        names = ", ".join(row.name for row in self._spec.activations)
        more = "" if self.matmul_precision == "float32" else f", matmul_precision={self.matmul_precision}"
        return f"MLP({self.sizes}, activations=({names}), dtype={self.dtype}{more}, step={self.step})"

    def flatten(self) -> NDArray[Any]:
        """All parameters as one dense vector, (n_params,): layer by layer, weight (row by row) then bias."""
        return self._spec.flatten(self._params)

    def unflatten(self, v: Array) -> None:
        """Set all parameters.

        Parameters
        ----------
        v : array_like, (n_params,)
            In the order of `flatten`.
        """
        vector = self._apart(spec.dense_vector("v", v, self._spec))
        made = self._params.copy()
        self._spec.unflatten_into(made, vector)
        with self._alone():
            self._params[...] = made

    def copy_from(self, other: MLP, tau: float = 1.0) -> None:
        """Take over another network's parameters, or a share of them, as target networks do.

        Parameters become ``(1 - tau) * self + tau * other``. Slots, step, seed and what else belongs to training stay,
        on both sides. Frozen parameters change too: `freeze` is about training.

        Parameters
        ----------
        other : MLP
            Of the same sizes, dtype and bias; activations, dropout, matmul_precision and backend may differ, and are
            not copied.
        tau : float, default 1.0
            From 0 to 1. 1 copies, bit by bit.

        Raises
        ------
        TypeError, ValueError
            `other` is no network, or its parameters are of other shapes or of another dtype; or `tau` is not from 0
            to 1.
        RuntimeError
            This network is training, or another thread is training `other`. In a callback of `other`, which is
            between two steps, this works.

        Examples
        --------
        >>> import fastbp
        >>> net, target = fastbp.MLP((4, 64, 2), seed=0), fastbp.MLP((4, 64, 2), seed=1)
        >>> target.copy_from(net)
        >>> target.copy_from(net, tau=0.005)  # after each step of net
        """
        if type(tau) is not float or tau != 1.0:
            tau = checks.number("tau", tau, 0, 1)
        if not isinstance(other, MLP):
            raise TypeError(f"other must be an MLP, got {other!r}")
        mine, its = self._spec, other._spec
        if mine.sizes != its.sizes or mine.dtype != its.dtype or mine.bias != its.bias:
            kinds = [f"sizes {one.sizes}, dtype {one.dtype} and bias={one.bias}" for one in (mine, its)]
            raise ValueError(f"other must have this network's {kinds[0]}; it has {kinds[1]}")
        if other._training.locked() and other._trainer != threading.get_ident() and other is not self:
            raise RuntimeError("another thread is training `other`; copy it there, or when it is done")
        params = other._params
        if mine.matmul_precision != its.matmul_precision:  # another layout
            params = mine.padded(its.flatten(params))
        with self._alone():  # buffers of one layout; what is in the padding is ignored
            if tau == 1.0:
                self._params[...] = params
            elif tau and other is not self:
                with np.errstate(all="ignore"):
                    self._params[...] = (1 - tau) * self._params + tau * params

    def freeze(self, layer: int, *, weight: bool = True, bias: bool = True) -> None:
        """Say which of a layer's parameters training leaves as they are, bit by bit, and their slots too.

        `frozen` tells for each layer. Gradients that a caller asks for are those of all parameters.

        Parameters
        ----------
        layer : int
            From 0, or from -1 backwards.
        weight, bias : bool, default True
            False lets it train again.
        """
        n = len(self._trains)
        k = checks.integer("layer", layer, -n, n - 1) % n
        trains = not checks.boolean("weight", weight), not checks.boolean("bias", bias)
        with self._exclusive():
            self._trains = (*self._trains[:k], trains, *self._trains[k + 1 :])
            self._again.forget()

    def averaged(self) -> MLP:
        """A copy of the network whose parameters are the moving average that an optimizer's `average` asked for.

        Raises
        ------
        RuntimeError
            No training has kept one.
        """
        if self._state.average is None:
            raise RuntimeError("no average has been kept: train first, with average= in the optimizer")
        net = copy.deepcopy(self)
        net._params[...] = net._state.average
        return net

    # -------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        return {
            "spec": self._spec, "backend": self._backend, "trains": self._trains, "params": self.flatten(),
            "state": self._state.to_dict(),
        }  # fmt: skip

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._spec, self._backend, self._trains = saved["spec"], saved["backend"], saved["trains"]
        self._bind(TrainingState.from_dict(self._spec, saved["state"]))
        self._spec.unflatten_into(self._params, saved["params"])

    def __copy__(self) -> MLP:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        net = type(self).__new__(type(self))
        net.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        net._state.loss = self._state.loss  # which pickles have not: any loss may be copied, not any pickled
        return net

    def save(self, path: File) -> None:
        """Write the network with its training state into one safetensors file, for `fastbp.load`.

        The file is a whole one at any moment, the old or the new, whatever happens meanwhile; it is on the disk when
        this returns. See docs/files.md.

        Parameters
        ----------
        path : str, bytes, path object or binary file object
            A regular file there is replaced and hands on its mode; a symbolic link stays, what it points to is
            replaced. Into a file object (``io.BytesIO()``, ``open(..., "wb")``) the same bytes are written from where
            it stands; to flush, sync and close it is the caller's.

        Raises
        ------
        OSError
            The file could not be written; the old one is as it was.
        ValueError
            The dtype is wider than float64, or two rows have one name.
        RuntimeError
            Another thread is training the network. The one that trains may save between two steps, in a callback.
        """
        from fastbp import files

        with self._still():
            saved = self.__getstate__()
        files.save(path, saved)

    # -------------------------------------------------------------- training

    # `with` takes the lock itself: its methods are C, so that no signal comes between it and the block, and a traceback
    # that is kept keeps no lock, as that of a generator does.

    def _alone(self) -> threading.Lock:
        """For `with`: parameters are about to change, one caller at a time."""
        if self._training.locked():
            raise RuntimeError("this network is training already; one fit, train_step or update at a time")
        return self._training

    def _exclusive(self) -> threading.Lock:
        """`_alone`, and a pending forward is void."""
        lock = self._alone()
        self._drop_pending()
        return lock

    def _still(self) -> AbstractContextManager[Any]:
        """For `with`: nothing changes. Nobody trains, or this thread does and is between two steps."""
        if self._trainer == threading.get_ident():
            return nullcontext()
        if self._training.locked():
            raise RuntimeError("another thread is training this network; save it there, or when it is done")
        return self._training

    def _apart(self, data: Any) -> Any:
        """`data`, copied where it lies in the parameters that are about to change."""
        return data.copy() if isinstance(data, np.ndarray) and np.may_share_memory(data, self._params) else data

    @property
    def lr(self) -> float:
        """The learning rate of the run that calls back, to be read and set in a callback; else a RuntimeError."""
        return self._running().lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._running().lr = value

    def _running(self) -> Run:
        if self._run is None:
            raise RuntimeError(
                "net.lr belongs to a run: it is there in a callback of fit; elsewhere give another optimizer, as in "
                "optimizer=fastbp.SGD(lr=0.01)"
            )
        return self._run

    @checks.names_arguments(_OTHER_ARGUMENTS_OF_FIT)
    def fit(
        self,
        X: Rows | Batches,
        y: Array | None = None,
        *,
        loss: LossLike = "mse",
        optimizer: OptimizerLike = "adam",
        batch_size: int = 32,
        epochs: int | None = None,
        steps: int | None = None,
        shuffle: bool = True,
        sample_weight: Array | None = None,
        class_weight: ClassWeight | None = None,
        validation_data: Examples | None = None,
        validation_split: float | None = None,
        missing: Literal["raise", "ignore"] = "raise",
        metrics: Sequence[MetricLike] = (),
        callbacks: Iterable[CallbackLike] | None = None,
        progress: bool = False,
        verbose: int = 0,
        eval_every: int | None = None,
        seed: SeedLike | None = None,
        nonfinite: Literal["raise", "ignore"] = "raise",
        n_threads: int | None = None,
    ) -> History:
        """Train on batches of the rows of X, or on the batches that X gives.

        Parameters
        ----------
        X : array_like or CSR matrix, (n, in_features), or iterable of batches
            Real numbers of any dtype and layout; cast batch by batch, and an array is not copied as a whole. A data
            frame whose columns are of several dtypes becomes one array first. Rows of a CSR matrix are made dense block
            by block. Without `y` an iterable of tuples (X, y) or (X, y, sample_weight), each the batch of a step: those
            of a list or tuple are read where they lie, those of another iterable are fetched ahead by a thread, which
            copies them. `batch_size` and `shuffle` do not apply then, and an epoch is a pass through the iterable.
        y : array_like
            Targets, (n, out_features); for one output also (n,). ``softmax_cross_entropy`` takes integer labels (n,)
            or rows of probabilities. ``gaussian_nll`` takes half as many targets as there are outputs.
        loss : str or row, default "mse"
            See `fastbp.losses`, which states each reduction. ``fastbp.losses.huber(delta=2.0)`` has a setting.
        optimizer : str or object, default "adam"
            A name has the defaults of its class: "adam" those of torch, a rate of 0.001 among them. That is also the
            rate of "sgd", and slow there for most networks.
        batch_size : int, default 32
            The last batch of an epoch is smaller where it must be, and averaged over its real size.
        epochs, steps : int
            Exactly one: ``epochs=k`` is k * ceil(n / batch_size) steps.
        shuffle : bool, default True
            A new order each epoch, a function of (seed, epoch) alone.
        sample_weight : array_like, (n,) or (n, out_features), optional
            Each batch's loss is sum(w l) / sum(w). Weights of each target, (n, out_features), are for losses of each
            target by itself (see docs/losses.md): then both sums are over rows and outputs, times out_features where
            the loss sums over outputs. A target of weight 0 counts for nothing, as do all in a batch of weights 0: its
            loss and gradient are 0.
        class_weight : dict or "balanced", optional
            A weight for the rows of each class, times their `sample_weight`; "balanced": n / (classes that occur * rows
            of the class). Of targets -1 and 1 these are classes 0 and 1. Not for validation rows.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Rows to measure the loss and `metrics` on, at each entry of the history.
        validation_split : float, optional
            The share of the rows of X, y that is kept for that, and not trained on: of each class where y names
            classes. Which rows is a function of the seed, n and the classes.
        missing : {"raise", "ignore"}
            What a target that is NaN is, here and in validation rows: an error, or missing. That is a weight of 0, of
            losses that take weights of each target. Metrics leave it out too; your own functions see it as NaN.
        metrics : sequence of str or callable, default ()
            Names of `fastbp.metrics`, ``"top_5"`` and the like, or functions ``(y_true, y_pred) -> float``; of the
            validation rows where there are any (``"val_accuracy"``), else of X, y (``"accuracy"``).
        callbacks : sequence of `fastbp.Callback`, optional
        progress : bool, default False
            A progress bar by tqdm: steps a second, loss, time left.
        verbose : int, default 0
            A line on standard output every so many epochs.
        eval_every : int, optional
            Record `evaluate` (X, y), with validation data and metrics, after every k-th ``net.step`` instead of the
            epochs' mean losses. Where X gives batches the mean loss of the epoch so far.
        seed : int, numpy.random.Generator or numpy.random.SeedSequence, optional
            Replaces the seed of the order from here on; as for `MLP`.
        nonfinite : {"raise", "ignore"}
            What a NaN or an infinity does: stop the run, or nothing.
        n_threads : int, optional
            Threads that large layers may use, at most; ``FASTBP_NUM_THREADS``, ``OMP_NUM_THREADS`` or the CPUs unless
            told. Parameters do not depend on it by a bit.

        Returns
        -------
        History

        Raises
        ------
        NonFiniteError
            A loss or a parameter became NaN or infinite; the network holds the last finite step. Or the validation
            rows hold such a number.
        RuntimeError
            The network is training already.
        """
        rest = (
            sample_weight, class_weight, validation_data, validation_split, missing, metrics, callbacks, progress,
            verbose, eval_every, seed, nonfinite, n_threads,
        )  # fmt: skip
        if y is not None and all(map(operator.is_, rest, _REST_OF_FIT)):
            history = self._fit_again(X, y, loss, optimizer, batch_size, epochs, steps, shuffle)
            if history is not None:
                return history
        run_loss = spec.loss(loss, self._spec)
        shuffle = checks.boolean("shuffle", shuffle)
        eval_every = checks.optional_integer("eval_every", eval_every, 1)
        stop = checks.choice("nonfinite", nonfinite, ("raise", "ignore")) == "raise"
        missing = checks.choice("missing", missing, ("raise", "ignore"))
        new_seed = self.seed if seed is None else checks.seed(seed)
        n_threads = checks.optional_integer("n_threads", n_threads, 1)
        by_lbfgs = isinstance(optimizer, LBFGS) or (isinstance(optimizer, str) and optimizer == "lbfgs")
        examples = make_examples(
            self._spec, run_loss, X, y, sample_weight, class_weight, validation_data, validation_split,
            batch_size=sys.maxsize if by_lbfgs else batch_size, epochs=epochs, steps=steps, shuffle=shuffle,
            seed=new_seed, missing=missing, apart=self._apart,
        )  # fmt: skip
        rule = spec.optimizer(optimizer, self._spec, examples.n_rows, examples.batch_size)
        watch = None
        waits = metrics, callbacks, progress, verbose, eval_every, examples.validation
        if not all(map(operator.is_, waits, _NOTHING_WAITS)):
            from fastbp.training.watch import make_watch

            evaluate = partial(self._evaluate, loss=run_loss, n_threads=n_threads)
            watch = make_watch(
                self, examples, run_loss, evaluate, metrics, callbacks, progress, verbose, eval_every, stop
            )
        if by_lbfgs:
            self._check_lbfgs(watch is not None and not watch.only_evaluates)
        with self._exclusive():
            history = self._fit_checked(
                examples, run_loss, rule, shuffle, stop, new_seed, n_threads, watch, eval_every=eval_every
            )
        return history  # not from within the block: a signal could come in between its end and the lock's release

    def _fit_checked(
        self, examples: CheckedExamples, loss: Any, rule: Any, shuffle: bool, stop: bool, seed: int,
        n_threads: int | None, watch: Any, *, eval_every: int | None = None, plan: Plan | None = None,
        why_stop: Callable[[], str | None] | None = None, runs: list[Run] | None = None,
    ) -> History:  # fmt: skip
        """`fit` from arguments that are checked, for whoever holds the lock of `_exclusive`.

        `plan` is that of its steps, where it is known. `why_stop` says why the run is to stop, or None. `runs` gets the
        run before it begins; L-BFGS has none.
        """
        if isinstance(rule, LBFGS):
            return self._fit_by_lbfgs(rule, *examples.rows, loss, examples.steps, eval_every, n_threads, why_stop)
        plan = plan or self._plan(examples.batch_size, loss=loss, rule=rule, n_threads=n_threads)
        try:
            self._trainer = threading.get_ident()
            with self._programs.lent(plan) as program, self._state.unless_no_step(), ExitStack() as stack:
                self._state.seed = seed
                self._state.trains_with(loss)
                make_run = partial(Run, given=examples.given, row_numbers=examples.inside, why_stop=why_stop)
                if not examples.is_array:
                    from fastbp.training.feeds import run_on

                    def lend(plan: Plan) -> Program:
                        return stack.enter_context(self._programs.lent(plan))

                    make_run = partial(run_on, examples, stack, lend, partial(self._again.batches, loss))
                run = make_run(
                    program, self._params, self._state, *examples.rows, examples.batch_size, rule, shuffle, stop, watch,
                )  # fmt: skip
                if watch is not None:
                    stack.callback(watch.close)
                    self._run = run  # which calls back
                if runs is not None:
                    runs.append(run)
                history = run.go(examples.steps)
            self._state.seed = seed  # also of no steps
        finally:
            self._trainer = self._run = None
        return history

    def _fit_again(self, X: Any, y: Any, loss: Any, optimizer: Any, *more: Any) -> History | None:
        """A run of few steps in one piece; None where it goes the long way."""
        began = time.perf_counter()
        made = self._again.fit(make_plan, self._trains, X, y, loss, optimizer, *more)
        if made is None:
            return None
        losses, step, n_steps, rule = made
        return History(losses, step, time.perf_counter() - began, n_steps, {"lr": rates_at(rule.lr, step - 1.0)})

    def _check_lbfgs(self, waits: bool) -> None:
        """Make sure that L-BFGS can train this network, where something `waits` during the run or not."""
        if waits:
            raise ValueError("optimizer: LBFGS takes no validation, metrics, callbacks, progress or verbose")
        if self._spec.dropout:
            raise ValueError("optimizer: LBFGS needs the same loss at each step, and this network has dropout")

    def _fit_by_lbfgs(
        self, rule: LBFGS, rows: Any, targets: Any, weight: Any, loss: Any, steps: int, eval_every: int | None,
        n_threads: int | None, why_stop: Callable[[], str | None] | None,
    ) -> History:  # fmt: skip
        from fastbp.training import lbfgs

        trained = self._spec.flatten(self._spec.mask(self._trains)).astype(bool)
        with self._state.unless_no_step():
            self._state.trains_with(loss)
            return lbfgs.fit(
                rule, self._params, self._state, trained, steps, eval_every,
                lambda: self._loss_and_grad(rows, targets, weight, loss, n_threads), why_stop,
            )  # fmt: skip

    def train_step(
        self, x: Array, y: Array, *, loss: LossLike = "mse", optimizer: OptimizerLike = "adam",
        sample_weight: Array | None = None, missing: Literal["raise", "ignore"] = "raise",
    ) -> float:  # fmt: skip
        """One training step on one batch; shares slots and ``net.step`` with `fit`, leaves its position alone.

        Parameters
        ----------
        x, y, loss, optimizer, sample_weight, missing
            As for `fit`; all rows are one batch. With ``missing="ignore"`` it may be one without any target: the loss
            and the gradient are 0.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        NonFiniteError
            The loss is NaN or infinite; nothing was updated.
        """
        arguments_again = x, y, loss, optimizer, sample_weight, missing
        value: float | None = self._again.calls.train_step(*arguments_again)
        if value is None and self._again.expects_step(make_plan, self._trains, x, loss, optimizer):
            value = self._again.calls.train_step(*arguments_again)
        if value is not None:
            return value
        rows = arguments.features(x, self._spec)
        row = spec.loss(loss, self._spec)
        given = self._samples(rows, y, sample_weight, row, missing, all_zero=missing == "ignore")
        rule = spec.optimizer(optimizer, self._spec)
        rows, targets, weight = map(self._apart, given)
        plan = self._plan(room(len(rows)), loss=row, rule=rule)
        with self._exclusive():
            with self._programs.lent(plan) as program, self._state.unless_no_step():
                self._state.trains_with(row)
                done = program.train(
                    rows, targets, weight, batch_size=len(rows), steps=1, seed=self.seed, shuffle=False,
                    count=self._state.count, place=np.zeros(2, np.int64), partial=np.zeros(2), losses=np.empty(1),
                    update=self._state.update(rule, 1, self._params, accumulate=rule.accumulate),
                    stop_on_loss=True, stop_on_params=False,
                )  # fmt: skip
        if done.status != DONE:
            message = f"the loss of the step after net.step == {self.step} is {done.loss}; nothing was updated"
            raise NonFiniteError(message + culprit(rows, self._params, self._spec), self.step, self.epoch)
        return done.loss

    def _samples(self, rows: Any, y: Any, sample_weight: Any, loss: Any, missing: Any, **more: Any) -> Samples:
        """Rows that are checked with their targets and weights, which are checked here."""
        missing = checks.choice("missing", missing, ("raise", "ignore"))
        return arguments.samples(rows, y, sample_weight, loss, self._spec, missing=missing, **more)

    def reset_training(self) -> None:
        """Drop the training state: slots, step, epoch, position, and a seed given to `fit`. Parameters stay."""
        with self._exclusive():
            self._state.reset()

    # -------------------------------------------------------------- looking

    def _plan_of_blocks(self, n: int, network: spec.Spec | None = None, **more: Any) -> Plan:
        return make_plan(network or self._spec, min(BLOCK_ROWS, room(n)), backend=self._backend, **more)

    def _blocks(self, n: int, plan: Plan) -> Iterator[tuple[Program, slice]]:
        """A program and each block of n rows."""
        with self._programs.lent(plan) as program:
            for start in range(0, n, plan.batch):
                yield program, slice(start, min(start + plan.batch, n))

    def predict(self, X: Rows) -> NDArray[Any]:
        """The network's output.

        Parameters
        ----------
        X : array_like, (n_samples, in_features)

        Returns
        -------
        ndarray, (n_samples, out_features)
            Logits where the loss is computed from logits.
        """
        answer: NDArray[Any] | None = self._again.calls.predict(X)
        if answer is not None:
            return answer
        rows = arguments.features(X, self._spec, empty=True, lazy=True)
        plan = self._plan_of_blocks(len(rows))
        out = self._outputs(rows, plan)
        self._again.predict(plan)
        return out

    def _outputs(self, rows: Any, plan: Plan) -> NDArray[Any]:
        """Of the plan's network."""
        out = np.empty((len(rows), plan.spec.out_features), plan.spec.dtype)
        for program, block in self._blocks(len(rows), plan):
            program.forward(rows[block], out[block])
        return out

    def predict_proba(self, X: Rows, *, link: LinkName | None = None) -> NDArray[Any]:
        """Probabilities: softmax or sigmoid of the network's logits.

        Parameters
        ----------
        X : array_like, (n_samples, in_features)
        link : {"softmax", "sigmoid"}, optional
            "softmax" of each row, for classes of which one holds; "sigmoid" of each output by itself. Unless told, that
            of the loss that the network was last trained with: ``softmax_cross_entropy`` and ``kl_divergence`` have
            "softmax", ``binary_cross_entropy`` and ``focal`` "sigmoid".

        Returns
        -------
        ndarray, (n_samples, out_features)
            In the network's dtype; rows of "softmax" sum to 1.

        Raises
        ------
        ValueError
            The output is not logits: ``output_activation`` is not the identity.
        RuntimeError
            No link is given, and the last loss has none.
        """
        found = self._state.link if link is None else checks.choice("link", link, losses.LINKS)
        if found is None:
            raise RuntimeError(
                "predict_proba: this network was not trained from logits of probabilities; "
                "say link='softmax' or link='sigmoid', or train it with softmax_cross_entropy or binary_cross_entropy"
            )
        output = self._spec.activations[-1]
        if not output.is_identity:
            raise ValueError(f"predict_proba needs output_activation='identity'; this network has {output.name!r}")
        with np.errstate(all="ignore"):
            return losses.LINKS[found](self.predict(X))

    def hidden(self, X: Rows, layer: int = -1) -> NDArray[Any]:
        """What a hidden layer gives, after its activation: the features that the network has made of X.

        Layers above it are not computed. There is no dropout, as in `predict`, and nothing of the network changes.

        Parameters
        ----------
        X : array_like, (n_samples, in_features)
        layer : int, default -1
            Of the hidden layers, from 0, or from -1 backwards: -1 is the last one, whose numbers the output layer gets.

        Returns
        -------
        ndarray, (n_samples, width of the layer)
            In the network's dtype.

        Raises
        ------
        ValueError
            The network has no such hidden layer, or none at all.

        Examples
        --------
        >>> import numpy as np, fastbp
        >>> net = fastbp.MLP((2, 8, 3, 1), activation="tanh", seed=0)
        >>> X = np.ones((5, 2))
        >>> net.hidden(X, 0).shape, net.hidden(X).shape
        ((5, 8), (5, 3))
        >>> np.allclose(net.hidden(X) @ net.weights[-1] + net.biases[-1], net.predict(X))
        True
        """
        answer: NDArray[Any] | None = self._again.calls.hidden(X, layer)
        if answer is not None:
            return answer
        layers = self._spec.beginnings
        if not layers:
            raise ValueError(f"hidden: a network of sizes {self.sizes} has no hidden layer; `predict` gives its output")
        k = checks.integer("layer", layer, -len(layers), len(layers) - 1) % len(layers)
        rows = arguments.features(X, self._spec, empty=True, lazy=True)
        plan = self._plan_of_blocks(len(rows), layers[k])
        out = self._outputs(rows, plan)
        self._again.predict(plan, k)
        return out

    def input_gradient(self, X: Rows, output: int | Array | None = None) -> NDArray[Any]:
        """The gradient of the network's output by its inputs, for each row of X: which inputs move the output, and how.

        Nothing of the network changes: not its gradients, nor a `forward` that waits for its `backward`.

        Parameters
        ----------
        X : array_like, (n_samples, in_features)
        output : int or array_like of int, (n_samples,), optional
            Which output: one for all rows, from 0, or from -1 backwards; or one for each row, from 0, as labels of
            classes are. A network with one output needs none.

        Returns
        -------
        ndarray, (n_samples, in_features)
            In the network's dtype: element [m, i] is d output / d X[m, i], of what `predict` gives for row m. That is
            a logit where the loss is computed from logits.

        Raises
        ------
        ValueError
            `output` is not there, or it is not given and there are several.

        Notes
        -----
        The gradient of any other function of the output, such as a loss, comes from two calls:
        ``net.backward(g)`` after ``a = net.forward(X)``, where g is that function's own gradient by a.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP((2, 2), init=[[[1.0, -3.0], [2.0, 0.5]]])
        >>> net.input_gradient([[0.1, 0.2], [0.3, 0.4]], output=0).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
        >>> net.input_gradient([[0.1, 0.2], [0.3, 0.4]], output=[0, 1]).tolist()
        [[1.0, 2.0], [-3.0, 0.5]]
        """
        answer: NDArray[Any] | None = self._again.calls.input_gradient(X, output)
        if answer is not None:
            return answer
        rows = arguments.features(X, self._spec, empty=True, lazy=True)
        chosen = arguments.chosen_outputs(output, rows, self._spec)
        made = np.empty((len(rows), self._spec.in_features), self._spec.dtype)
        plan = self._plan_of_blocks(len(rows))
        for program, block in self._blocks(len(rows), plan):
            program.forward(rows[block], None, keep=True)
            grad_output = np.zeros((block.stop - block.start, self._spec.out_features), self._spec.dtype)
            grad_output[np.arange(len(grad_output)), chosen[block]] = 1
            program.backward(None, grad_output=grad_output, grad_input=made[block])
        self._again.predict(plan)
        return made

    @overload
    def evaluate(  # type: ignore[overload-overlap]  # no metrics are a sequence of them, too
        self, X: Rows, y: Array, *, loss: LossLike | None = None, sample_weight: Array | None = None,
        missing: Literal["raise", "ignore"] = "raise", metrics: tuple[()] = (),
    ) -> float: ...  # fmt: skip

    @overload
    def evaluate(
        self, X: Rows, y: Array, *, loss: LossLike | None = None, sample_weight: Array | None = None,
        missing: Literal["raise", "ignore"] = "raise", metrics: Sequence[MetricLike],
    ) -> dict[str, float]: ...  # fmt: skip

    def evaluate(
        self, X: Rows, y: Array, *, loss: LossLike | None = None, sample_weight: Array | None = None,
        missing: Literal["raise", "ignore"] = "raise", metrics: Sequence[MetricLike] = (),
    ) -> float | dict[str, float]:  # fmt: skip
        """The loss on all of X, y, and metrics.

        Parameters
        ----------
        X, y, sample_weight, missing
            As for `fit`.
        loss : str or row, optional
            As for `fit`. Unless told, that which the network was last trained with in this process; copies keep it,
            saved files and pickles do not.
        metrics : sequence of str or callable, default ()
            As for `fit`.

        Returns
        -------
        float or dict
            sum(w l) / sum(w). With metrics, also with an empty list of them, a dict: that as ``"loss"``, and each
            metric by its name.

        Raises
        ------
        RuntimeError
            No loss is given, and the network was not trained in this process.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP((1, 2), init=[[[1.0, -1.0]]])
        >>> found = net.evaluate([[2.0], [-1.0]], [0, 0], loss="softmax_cross_entropy", metrics=["accuracy"])
        >>> found["accuracy"]
        0.5
        """
        named = self._state.loss if loss is None else loss
        plain = isinstance(metrics, tuple) and not metrics
        if plain and missing == "raise":
            made: float | None = self._again.calls.evaluate(X, y, named, sample_weight)
            if made is not None:
                return made
        rows = arguments.features(X, self._spec, lazy=True)
        row = self._last_loss() if loss is None else spec.loss(loss, self._spec)
        rows, targets, weight = self._samples(rows, y, sample_weight, row, missing)
        if plain:
            value = self._evaluate(rows, targets, weight, row)
            self._again.evaluate(self._plan_of_blocks(len(rows), loss=row), named, row)
            return value
        from fastbp.metrics import find_all, measure

        wanted = find_all(metrics, row, targets, self._spec.out_features, weight)
        out = np.empty((len(rows), self._spec.out_features), self._spec.dtype)
        value = self._evaluate(rows, targets, weight, row, out=out)
        return {"loss": value} | measure(wanted, targets, out, weight, row)

    def _last_loss(self) -> Loss:
        if self._state.loss is None:
            raise RuntimeError(
                "evaluate: no loss is known, as this network was not trained in this process, or was reset since; give "
                "one, as in loss='mse', or loss='softmax_cross_entropy' for labels"
            )
        return self._state.loss

    def _evaluate(
        self, rows: Any, targets: Any, weight: NDArray[Any] | None, loss: Any, *, out: Any = None,
        n_threads: int | None = None,
    ) -> float:  # fmt: skip
        """The loss on rows, and their outputs into `out` where that is given."""
        total, value = total_weight(weight, len(rows)), 0.0
        for program, block in self._blocks(len(rows), self._plan_of_blocks(len(rows), loss=loss, n_threads=n_threads)):
            program.forward(rows[block], None if out is None else out[block])
            value += program.loss(targets[block], None if weight is None else weight[block], total, gradient=False)
        return value

    def loss_and_grad(
        self, X: Rows, y: Array, *, loss: LossLike, sample_weight: Array | None = None,
        missing: Literal["raise", "ignore"] = "raise",
    ) -> tuple[float, NDArray[Any]]:  # fmt: skip
        """The loss on all of X, y and its gradient; leaves `grads` and a pending `forward` alone.

        Parameters
        ----------
        X, y, loss, sample_weight, missing
            As for `fit`. With ``missing="ignore"`` there may be no target at all: loss and gradient are 0.

        Returns
        -------
        loss : float
            sum(w l) / sum(w).
        gradient : ndarray, (n_params,)
            In the order of `flatten`.
        """
        if missing == "raise":
            known: tuple[float, NDArray[Any]] | None = self._again.calls.loss_and_grad(X, y, loss, sample_weight)
            if known is not None:
                return known
        rows = arguments.features(X, self._spec, lazy=True)
        row = spec.loss(loss, self._spec)
        given = self._samples(rows, y, sample_weight, row, missing, all_zero=missing == "ignore")
        made = self._loss_and_grad(*given, row)
        self._again.evaluate(self._plan_of_blocks(len(rows), loss=row), loss, row)
        return made

    def _loss_and_grad(
        self, rows: NDArray[Any], targets: NDArray[Any], weight: NDArray[Any] | None, loss: Any,
        n_threads: int | None = None,
    ) -> tuple[float, NDArray[Any]]:  # fmt: skip
        total, value = total_weight(weight, len(rows)), 0.0
        grads = spec.aligned_zeros(self._spec.buffer_size, self._spec.dtype)
        for program, block in self._blocks(len(rows), self._plan_of_blocks(len(rows), loss=loss, n_threads=n_threads)):
            x = rows[block]  # a new array where rows are sparse; `backward` reads it again
            program.forward(x, None)
            value += program.loss(targets[block], None if weight is None else weight[block], total, gradient=True)
            program.backward(grads, accumulate=True)
        return value, self._spec.flatten(grads)

    def explain(self, batch_size: int = 32, *, loss: LossLike = "mse", optimizer: OptimizerLike = "adam") -> None:
        """Print the plan of a training step: what was chosen, and what a step costs.

        Backend, instruction set, bytes of workspace; for each layer the kernel family and why it was taken,
        multiplications and additions, and bytes read and written, counted as `summary` says.

        Parameters
        ----------
        batch_size : int, default 32
            Rows of a full batch; a smaller last one may be computed in another way.
        loss, optimizer
            As for `fit`.
        """
        from fastbp.inspection.explain import explain

        plan = self._plan_of_step(batch_size, loss, optimizer)
        with self._programs.lent(plan) as program:
            print(explain(program))

    def summary(self, batch_size: int = 32, *, loss: LossLike = "mse", optimizer: OptimizerLike = "adam") -> None:
        """Print the network layer by layer: shapes, parameters, and what a training step costs.

        `explain` says how the step is computed.

        Parameters
        ----------
        batch_size : int, default 32
            Rows of a batch.
        loss, optimizer
            As for `fit`; the optimizer's slots are bytes that a step reads and writes.

        Notes
        -----
        FLOPs are the multiplications and additions of a step's matrix products. Each product of a layer has 2 *
        batch_size * in_features * out_features: one forward, one for the gradient of the weight where the weight
        trains, and one for the gradient of the layer's input where anything below it trains.

        Bytes are those that a step reads and writes if no cache keeps anything from one use to the next; each array
        counts as often as it is read or written::

            weight and bias      3 + 2 slots    read forward; read and written by the update, as each slot is
            weight               below          read for the gradient of the layer's input
            x (batch, in)        2              read forward, and for the gradient of the weight
            z (batch, out)       2 where kept   written forward, read on the way back
            a (batch, out)       2              written forward, read on the way back
            delta (batch, out)   2 + below      written; read for the gradients of the weight and of the input

        Here slots is the number of arrays that the optimizer keeps beside each parameter (0 for plain SGD, 2 for
        Adam), and below is 1 where anything below the layer trains, which is never so in the first layer. Of what is
        frozen the way back is left out. So are padding and targets: a network that fits the L1 cache moves next to
        nothing between cache and memory, whatever these numbers say.
        """
        from fastbp.inspection.explain import summary

        print(summary(self._plan_of_step(batch_size, loss, optimizer)))

    def _plan_of_step(self, batch_size: int, loss: Any, optimizer: Any) -> Plan:
        """The plan of a step of `fit`, from arguments that are checked here."""
        row = spec.loss(loss, self._spec)
        batch = checks.integer("batch_size", batch_size, 1)
        rule = spec.optimizer(optimizer, self._spec)
        return self._plan(batch, loss=row, rule=rule)

    def _plan(self, batch: int, **more: Any) -> Plan:
        """Of a call that may train."""
        return make_plan(self._spec, batch, backend=self._backend, trains=self._trains, **more)

    def trace(
        self, x: Array, y: Array, *, loss: LossLike = "mse", optimizer: OptimizerLike | None = None,
        lr: float | None = None, sample_weight: Array | None = None,
    ) -> Trace:  # fmt: skip
        """One step of back-propagation by hand: every number of it, and the formulas. The network stays as it is.

        Parameters
        ----------
        x, y, loss, sample_weight
            As for `train_step`; all rows are one batch.
        optimizer : str or object, optional
            As for `train_step`, "adam" unless told; its slots are those of the network.
        lr : float, optional
            Instead of `optimizer`: plain SGD with this learning rate.

        Returns
        -------
        fastbp.Trace
            z, a, g, delta of each layer, gradients, new parameters (those of `train_step`, to the bit; with
            ``matmul_precision="bfloat16"`` those of a twin in float32), the loss before and after. ``print`` shows it
            as text, a notebook as HTML; ``to_text(digits=9)``, ``to_html`` and ``to_latex`` say how.

        Raises
        ------
        NonFiniteError
            The loss is NaN or infinite.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP((2, 1), init=[([[0.5], [-1.0]], [0.0])])
        >>> step = net.trace([[1.0, 2.0]], [0.5], loss="half_squared_error", lr=0.1)
        >>> step.layers[0].delta.tolist(), step.loss_before
        ([[-2.0]], 2.0)
        """
        from fastbp.inspection.trace import trace

        if lr is not None:
            if optimizer is not None:
                raise ValueError(f"give at most one of optimizer and lr, got optimizer={optimizer!r} and lr={lr!r}")
            optimizer = SGD(lr)
        return trace(self, x, y, loss, "adam" if optimizer is None else optimizer, sample_weight)

    def compile(
        self, backend: BackendName | None = None, *, batch_size: int = 32, loss: LossLike = "mse",
        optimizer: OptimizerLike = "adam",
    ) -> float:  # fmt: skip
        """Have everything compiled that training and `predict` need, and stay with a backend: `net.backend` is set.

        Parameters
        ----------
        backend : str, optional
            The backend to stay with. None makes training steps on a copy, compiled by Cython and by Numba, takes the
            faster of the two that are there, and measures no more from then on.
        batch_size : int, default 32
            Rows of the batches to come.
        loss, optimizer
            As for `fit`.

        Returns
        -------
        float
            Seconds that it took.

        Raises
        ------
        RuntimeError
            The backend cannot be used here, or the network is training.
        """
        from fastbp.backends.fastest import fastest, prepared

        row, rule = spec.loss(loss, self._spec), spec.optimizer(optimizer, self._spec)
        batch = checks.integer("batch_size", batch_size, 1)
        names = None if backend is None else (checks.choice("backend", backend, ("auto", *backends.NAMES)),)
        with self._exclusive():
            began = time.perf_counter()
            work = {"loss": row, "optimizer": rule, "batch_size": batch}
            candidates = prepared(copy.deepcopy(self), names, work)
            chosen: Any = fastest(candidates)
            self._backend = self._again.backend = chosen
            self._again.forget()
            return time.perf_counter() - began

    # -------------------------------------------------------------- the caller's own gradient

    def forward(self, x: Array) -> NDArray[Any]:
        """The output for a batch; `backward` may follow. The network keeps its own copy of x.

        Parameters
        ----------
        x : array_like, (n, in_features)

        Returns
        -------
        ndarray, (n, out_features)
            A fresh array.
        """
        answer: NDArray[Any] | None = self._again.calls.forward(x)
        if answer is not None:
            return answer
        rows = arguments.features(x, self._spec)
        plan = self._plan(room(len(rows)))
        self._drop_pending()
        program = self._programs.take(plan)
        out = np.empty((len(rows), self._spec.out_features), self._spec.dtype)
        program.forward(rows, out, keep=True)
        self._pending.append((program, len(rows)))
        self._again.forward(plan)
        return out

    def _drop_pending(self) -> None:
        if self._pending:
            with suppress(IndexError):  # another thread drops them too
                while self._pending:
                    self._programs.give_back(self._pending.pop()[0])

    def _pending_forward(
        self, taken: list[tuple[Program, int]], grad_output: Any
    ) -> tuple[Program, NDArray[Any], NDArray[Any]]:
        """The program of the last `forward`, the checked grad_output, and an array for grad_input.

        What is pending is moved to `taken`, out of reach of other threads while the program works.
        """
        try:
            taken += map(self._pending.pop, (0,))  # in one go, where no signal comes in between
        except IndexError:
            raise RuntimeError("no forward is pending: call net.forward(x) first; an update voids it") from None
        program, n = taken[0]
        grad_output = arguments.matrix("grad_output", grad_output, self._spec.out_features, n)
        return program, grad_output, np.empty((n, self._spec.in_features), self._spec.dtype)

    def _pend_again(self, taken: list[tuple[Program, int]]) -> None:
        """What was taken is pending again, unless another thread went forward meanwhile."""
        if taken and self._pending:
            self._programs.give_back(taken.pop()[0])
        self._pending += taken

    def backward(self, grad_output: Array, *, accumulate: bool = False) -> NDArray[Any]:
        """Back-propagate the caller's own gradient through the last `forward`; fills `grads`.

        Parameters
        ----------
        grad_output : array_like, (n, out_features)
            dL/d(output); nothing is averaged here.
        accumulate : bool, default False
            Add to `grads` instead of replacing them.

        Returns
        -------
        ndarray, (n, in_features)
            dL/dx.
        """
        answer: NDArray[Any] | None = self._again.calls.backward(grad_output, accumulate, self.grads)
        if answer is not None:
            return answer
        taken: list[tuple[Program, int]] = []
        try:
            program, grad_output, grad_input = self._pending_forward(taken, grad_output)
            accumulate = checks.boolean("accumulate", accumulate)
            program.backward(self.grads, grad_output=grad_output, grad_input=grad_input, accumulate=accumulate)
        finally:
            self._pend_again(taken)
        return grad_input

    def update(self, optimizer: OptimizerLike = "adam") -> None:
        """One optimizer step with `grads`; shares slots and ``net.step`` with `fit`.

        Parameters
        ----------
        optimizer : str or object, default "adam"
            Its `accumulate` says nothing here: `backward` accumulates where it is told to.
        """
        if self._again.calls.update(optimizer, self.grads):
            return
        rule = spec.optimizer(optimizer, self._spec)
        plan = self._plan(1)
        with self._exclusive(), self._programs.lent(plan) as program, self._state.unless_no_step():
            program.update(self.grads, self._state.update(rule, 1, self._params), self._state.count)
        self._again.update(plan, optimizer, rule)

    def backward_update(self, grad_output: Array, optimizer: OptimizerLike = "adam") -> NDArray[Any]:
        """`backward` and `update` in one pass, without filling `grads`.

        Parameters
        ----------
        grad_output : array_like, (n, out_features)
            dL/d(output); nothing is averaged here.
        optimizer : str or object, default "adam"

        Returns
        -------
        ndarray, (n, in_features)
            dL/dx, from the weights before the update.
        """
        answer: NDArray[Any] | None = self._again.calls.backward_update(grad_output, optimizer)
        if answer is not None:
            return answer
        rule = spec.optimizer(optimizer, self._spec)
        taken: list[tuple[Program, int]] = []
        count, step = self._state.count, self.step
        try:
            program, grad_output, grad_input = self._pending_forward(taken, grad_output)
            with self._exclusive(), self._state.unless_no_step():
                made = self._state.update(rule, 1, self._params)
                if rule.clip_norm is None:
                    program.backward_update(grad_output, grad_input, made, count)
                else:  # the whole gradient comes first
                    grads = spec.aligned_zeros(self._spec.buffer_size, self._spec.dtype)
                    program.backward(grads, grad_output=grad_output, grad_input=grad_input)
                    program.update(grads, made, count)
        finally:
            if count[0] == step:
                self._pend_again(taken)
        self._programs.give_back(program)
        self._again.update(self._plan(1), optimizer, rule)
        return grad_input


def load(path: File, *, rows: Iterable[Activation] = ()) -> MLP:
    """The network that `MLP.save` wrote, with its training state: a run goes on with the same bits.

    The file may come from anywhere: reading it runs no code. See docs/files.md.

    Parameters
    ----------
    path : str, bytes, path object or binary file object
        A file object is read from where it stands to the end of the network, and is not closed. Bytes are a path: to
        load the contents of a file, give ``io.BytesIO(contents)``.
    rows : sequence of Activation, optional
        The activations of the network that are not fastbp's own, found by their names.

    Returns
    -------
    MLP

    Raises
    ------
    FormatError
        The file is damaged, too new, or no network that was saved.
    OSError
        It cannot be read.
    ValueError
        A row that the network needs is not among `rows`. (FormatError is a ValueError too.)
    """
    from fastbp import files

    net = MLP.__new__(MLP)
    net.__setstate__(files.load(path, rows))
    return net
