"""save_many and load_many: many networks in one file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastbp import files
from fastbp.many import given
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from fastbp.rows import Activation
    from fastbp.typing import File, Networks


def save_many(nets: Networks, path: File) -> None:
    """Write many networks with their training state into one safetensors file, for `load_many`.

    What networks have in common stands in the file once, so that 100,000 small ones take some hundred bytes each. The
    file is a whole one at any moment, as that of ``MLP.save``. See docs/files.md.

    Parameters
    ----------
    nets : sequence of MLP, or dict of MLP by key
        Any mix, one at least. Keys are str, int, float or bool, or NumPy's scalars of these, which come back as
        Python's own.
    path : str, bytes, path object or binary file object
        As for ``MLP.save``.

    Raises
    ------
    TypeError, ValueError
        `nets` is empty, holds what is no network, or a key of another kind; a dtype is wider than float64; two rows of
        activations have one name; or there are too many kinds of networks, some 30,000, for a file.
    OSError
        The file could not be written; the old one is as it was.
    RuntimeError
        Another thread is training one of the networks, which is named.

    Examples
    --------
    >>> import io, fastbp
    >>> stored = io.BytesIO()
    >>> fastbp.save_many({"Bern": fastbp.MLP((2, 3, 1)), "Chur": fastbp.MLP((2, 8, 1))}, stored)
    >>> list(fastbp.load_many(io.BytesIO(stored.getvalue())))
    ['Bern', 'Chur']
    """
    networks = given.Networks(nets)
    keys = None if networks.keys is None else [files.plain_key(key) for key in networks.keys]
    saved = []
    for k, net in enumerate(networks.nets):
        try:
            with net._still():
                saved.append(net.__getstate__())
        except RuntimeError as error:
            raise RuntimeError(f"{networks.name(k)}: {error}") from None
    files.save_many(path, saved, keys)


def load_many(path: File, *, rows: Iterable[Activation] = ()) -> Any:
    """The networks that `save_many` wrote, with their training state: runs go on with the same bits.

    The file may come from anywhere: reading it runs no code. See docs/files.md.

    Parameters
    ----------
    path : str, bytes, path object or binary file object
        As for `fastbp.load`.
    rows : sequence of Activation, optional
        As for `fastbp.load`.

    Returns
    -------
    list of MLP, or dict of MLP by key
        As they were given to `save_many`, in the same order.

    Raises
    ------
    FormatError
        The file is damaged, too new, or none of `save_many`.
    OSError
        It cannot be read.
    ValueError
        A row that a network needs is not among `rows`. (FormatError is a ValueError too.)
    """
    nets, keys = files.load_many(path, rows, _made)
    return nets if keys is None else dict(zip(keys, nets))


def _made(saved: dict[str, Any]) -> MLP:
    net = MLP.__new__(MLP)
    net.__setstate__(saved)
    return net
