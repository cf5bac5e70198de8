"""Ensemble: networks that answer together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from fastbp import checks, losses
from fastbp.arrays import real_array
from fastbp.many import given
from fastbp.many.predict import forward, jobs, rows_for
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from fastbp.rows import Activation
    from fastbp.typing import Array, File, LinkName, Networks, Rows

_BLOCK_BYTES = 1 << 24  # outputs of all members that are held at once


class Ensemble:
    """Networks that answer together: the mean of their outputs, and how far they lie apart.

    Parameters
    ----------
    nets : sequence of MLP, or dict of MLP by key
        At least one. Each may have hidden layers, activations, a seed and a dtype of its own; all take the same number
        of features and give the same number of outputs. They are not copied: to train one further changes the ensemble.

    Attributes
    ----------
    nets : tuple of MLP
        The members.

    Raises
    ------
    TypeError, ValueError
        `nets` is empty, holds what is no network, or networks that differ in features or outputs.

    Notes
    -----
    What a network of classes puts out are logits, and so are their means: ``predict_proba`` is the one to ask, and
    ``predict_proba(X).argmax(axis=1)`` the class that the ensemble takes for the likeliest.

    Members that have learnt the same rows from other seeds differ where the rows do not say what is right. Their
    standard deviation shows that, and nothing of the noise in the targets.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> nets = [fastbp.MLP((1, 8, 1), activation="tanh", seed=seed) for seed in range(5)]
    >>> for net in nets:
    ...     history = net.fit(X, X**2, optimizer=fastbp.Adam(lr=0.01), epochs=20)
    >>> mean, std = fastbp.Ensemble(nets).predict(X, return_std=True)
    >>> mean.shape, std.shape
    ((20, 1), (20, 1))
    """

    __module__ = "fastbp"

    def __init__(self, nets: Networks) -> None:
        networks = given.Networks(nets)
        for k, net in enumerate(networks.nets):
            for what, n, of_first in zip(("features", "outputs"), _ends(net), _ends(networks.nets[0])):
                if n != of_first:
                    raise ValueError(f"all members need the same number of {what}; {networks.name(0)} has {of_first}, "
                                     f"{networks.name(k)} has {n}")  # fmt: skip
        self.nets: tuple[MLP, ...] = tuple(networks.nets)

    def __len__(self) -> int:
        """How many members there are."""
        return len(self.nets)

    def __repr__(self) -> str:
        features, outputs = _ends(self.nets[0])
        return f"Ensemble({len(self)} networks, features={features}, outputs={outputs})"

    @overload
    def predict(
        self, X: Rows, *, return_std: Literal[False] = False, n_threads: int | None = None
    ) -> NDArray[Any]: ...

    @overload
    def predict(
        self, X: Rows, *, return_std: Literal[True], n_threads: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...

    def predict(
        self, X: Rows, *, return_std: bool = False, n_threads: int | None = None
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """The mean of the members' outputs.

        Parameters
        ----------
        X : array_like or CSR matrix, (n, in_features)
        return_std : bool, default False
            Give the standard deviation of the members' outputs, too: the root of the mean square of their distances
            from the mean, 0 for one member.
        n_threads : int, optional
            As for `predict_many`.

        Returns
        -------
        mean : ndarray, (n, out_features)
            Added up in float64, in the dtype of the members' outputs. Logits where the loss is computed from logits:
            see `predict_proba`.
        std : ndarray, (n, out_features)
            With ``return_std=True``.
        """
        return_std = checks.boolean("return_std", return_std)
        parts = [(of.mean(axis=0, dtype=np.float64), of.std(axis=0, dtype=np.float64) if return_std else None)
                 for of in self._outputs(X, n_threads)]  # fmt: skip
        mean = self._joined([mean for mean, _ in parts])
        return (mean, self._joined([std for _, std in parts if std is not None])) if return_std else mean

    def predict_proba(
        self, X: Rows, *, link: LinkName | None = None, n_threads: int | None = None
    ) -> NDArray[Any]:  # fmt: skip
        """The mean of the members' probabilities.

        Parameters
        ----------
        X : array_like or CSR matrix, (n, in_features)
        link : {"softmax", "sigmoid"}, optional
            As for ``MLP.predict_proba``. Unless told, that of the loss that the members were last trained with.
        n_threads : int, optional
            As for `predict_many`.

        Returns
        -------
        ndarray, (n, out_features)
            In the dtype of the members' outputs; rows of "softmax" sum to 1.

        Raises
        ------
        RuntimeError
            No link is given, and a member's last loss has none, or members were trained with different ones.
        ValueError
            A member's output is not logits: its ``output_activation`` is not the identity.
        """
        found = self._link() if link is None else checks.choice("link", link, losses.LINKS)
        for k, net in enumerate(self.nets):
            output = net._spec.activations[-1]
            if not output.is_identity:
                raise ValueError(
                    f"predict_proba needs output_activation='identity'; nets[{k}] has {output.name!r}. `predict` "
                    "averages outputs that are probabilities already"
                )
        with np.errstate(all="ignore"):
            return self._joined([np.mean(list(map(losses.LINKS[found], of)), axis=0, dtype=np.float64)
                                 for of in self._outputs(X, n_threads)])  # fmt: skip

    def _link(self) -> str:
        links = {net._state.link for net in self.nets}
        link = links.pop()
        if links or link is None:
            said = "differ in the loss" if links else "were not trained from logits of probabilities"
            raise RuntimeError(
                f"predict_proba: the members {said}; say link='softmax' or link='sigmoid', or train them with "
                "softmax_cross_entropy or binary_cross_entropy"
            )
        return link

    def quantiles(self, X: Rows, q: Array, *, n_threads: int | None = None) -> NDArray[Any]:
        """Quantiles of the members' outputs, for each row and output.

        Parameters
        ----------
        X : array_like or CSR matrix, (n, in_features)
        q : float or array_like of float, (k,)
            From 0, the smallest of the outputs, to 1, the largest; between two members by linear interpolation.
        n_threads : int, optional
            As for `predict_many`.

        Returns
        -------
        ndarray, (k, n, out_features), or (n, out_features) for one number
            In the dtype of the members' outputs. NaN where a member's output is.
        """
        levels = real_array("q", q).astype(np.float64)
        if levels.ndim > 1:
            raise ValueError(f"q must be a number or 1-D, got shape {levels.shape}")
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q must be from 0 to 1, got {q!r}")
        with np.errstate(all="ignore"):
            return self._joined([np.quantile(of, levels, axis=0) for of in self._outputs(X, n_threads)], -2)

    def _outputs(self, X: Any, n_threads: int | None) -> Iterator[NDArray[Any]]:
        """Of all members, (n_members, rows of a block, out_features), block by block; of no rows an empty one."""
        rows, (_, n_outputs) = rows_for(given.Networks(self.nets), X), _ends(self.nets[0])
        dtypes = [net.dtype for net in self.nets]
        n_bytes = sum(dtype.itemsize for dtype in dtypes) * n_outputs
        height = max(256, _BLOCK_BYTES // n_bytes // 256 * 256)
        for start in range(0, max(1, len(rows)), height):
            block = rows[start : start + height]
            shape = len(self.nets), len(block), n_outputs
            if len(set(dtypes)) == 1:
                whole = np.empty(shape, dtypes[0])
                outs = list(whole)
            else:
                outs = [np.empty(shape[1:], dtype) for dtype in dtypes]
            forward(jobs(list(self.nets), block, outs), n_threads)
            yield whole if len(set(dtypes)) == 1 else np.stack(outs)

    def _joined(self, parts: list[NDArray[Any]], axis: int = 0) -> NDArray[Any]:
        dtype = np.result_type(*(net.dtype for net in self.nets))
        with np.errstate(all="ignore"):
            return np.concatenate(parts, axis).astype(dtype)

    # -------------------------------------------------------------- files

    def save(self, path: File) -> None:
        """Write the members with their training state into one file, for `load`; it is one of `save_many`.

        Parameters
        ----------
        path : str, bytes, path object or binary file object
            As for ``MLP.save``.
        """
        from fastbp.many.stored import save_many

        save_many(self.nets, path)

    @classmethod
    def load(cls, path: File, *, rows: Iterable[Activation] = ()) -> Self:
        """The ensemble of the networks that a file of `save`, or of `save_many`, holds.

        Parameters
        ----------
        path : str, bytes, path object or binary file object
            As for `fastbp.load`.
        rows : sequence of Activation, optional
            As for `fastbp.load`.

        Returns
        -------
        Ensemble

        Raises
        ------
        FormatError
            The file is damaged, too new, or no file of `save_many`.
        OSError, ValueError
            As for `fastbp.load`; or the networks of the file make no ensemble.
        """
        from fastbp.many.stored import load_many

        return cls(load_many(path, rows=rows))


def _ends(net: MLP) -> tuple[int, int]:
    return net._spec.in_features, net._spec.out_features
