"""Fuzzes `fastbp.load_many` as fuzz_load.py, which says how, does `fastbp.load`; findings stay in build/fuzz/many/.

    python tests/fuzz/fuzz_load_many.py -max_total_time=1200
"""

import itertools
import json
import math

import numpy as np
from fuzz_load import FOLDER, SEPARATOR, fuzz, seeds_of  # first: it has fastbp instrumented, and finds the tests

# isort: split
from forge import START, described, padded, signed, split
from test_files import MINE, RULE, trained

import fastbp
from fastbp import files

FOLDER = FOLDER / "many"
FILE, AGAIN = FOLDER / "file", FOLDER / "again"


def try_to_load(content):
    FILE.write_bytes(content)
    try:
        nets = fastbp.load_many(FILE, rows=[MINE])
    except fastbp.FormatError:
        return
    except ValueError as error:
        if not str(error).startswith("rows: "):
            raise
        return
    fastbp.save_many(nets, AGAIN)
    (entries, networks), (entries_again, again) = (described(one, "networks") for one in (content, AGAIN.read_bytes()))
    networks["fastbp"] = again["fastbp"]  # any word may stand there
    for kind, kind_again in zip(networks["kinds"], again["kinds"], strict=True):  # fields that are younger are left out
        kind_again["training"] = {name: kind_again["training"][name] for name in kind["training"]}
    if networks != again or tensors(content, entries) != {
        name: one for name, one in tensors(AGAIN.read_bytes(), entries_again).items() if name in entries
    }:
        raise AssertionError("a file was accepted that is not what its networks are saved as")


def tensors(content, entries):
    """Of each name its dtype, shape and bytes."""
    data = split(content)[1]
    return {name: (one["dtype"], one["shape"], data[slice(*one["data_offsets"])]) for name, one in entries.items()}


NUMBERS = {"seeds": 2, "count": 1, "place": 2, "data_shape": 2, "counted": 3}  # in a row of what is marked so
FLOATS = "plateau.scale", "plateau.best"


def agreeing(words, data):
    """The file of what the words say about networks, one of each kind, with the tensors that these ask for, or None."""
    try:
        networks = json.loads(words)
        n = len(networks["kinds"])
        wanted = {"kind": (np.dtype(np.int64), (n,))}
        for k, kind in enumerate(networks["kinds"]):
            dtype = np.dtype(kind["dtype"])
            shapes = files._layer_tensors(kind["sizes"], kind["bias"], dtype).values()
            n_params = sum(math.prod(shape) for _, shape in shapes)
            wanted[f"kinds.{k}.params"] = dtype, (1, n_params)
            for leaf, mark in files._marks(kind["training"]):
                number = np.dtype(np.float64 if leaf in FLOATS else np.uint64)
                of_mark = {"number": (number, (1,)), "numbers": (number, (1, NUMBERS.get(leaf, 1)))}
                wanted[f"kinds.{k}.{leaf}"] = of_mark.get(mark, (dtype, (1, n_params)))
        n_bytes = sum(math.prod(shape) * dtype.itemsize for dtype, shape in wanted.values()) - 8 * n
        if n_bytes >= 1 << 16:
            return None
        data = (data * (n_bytes // max(1, len(data)) + 1))[:n_bytes]
        return signed(files._header(networks, wanted), np.arange(n, dtype=np.int64).tobytes() + data)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return None


def one(data):
    try_to_load(data)
    words, _, data = data.partition(SEPARATOR)
    try_to_load(signed(padded(START + b"0" * 64 + words), data))
    file = agreeing(words, data)
    if file is not None:
        try_to_load(file)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    small = [fastbp.MLP((1, 2), seed=3), fastbp.MLP((2, 1), seed=2**64 - 1), fastbp.MLP((1, 2), seed=4)]
    for net in small[:2]:
        net.train_step(np.ones((4, net.sizes[0])), np.ones((4, net.sizes[1])), optimizer=RULE)
    lists = [small, dict(zip(("a", 1, 2.5), small)), small[:1], {True: small[1]}, [trained()],
             [trained(bias=False, dtype="float64"), trained(activation="tanh"), *small[:2]]]  # fmt: skip
    seeds = []
    for nets in lists:
        fastbp.save_many(nets, FILE)
        content = FILE.read_bytes()
        entries, networks = described(content, "networks")
        of_kinds = [data for name, (_, _, data) in tensors(content, entries).items() if name.startswith("kinds.")]
        seeds += seeds_of(content, "networks", b"".join(of_kinds))
        if len(networks["kinds"]) == len(nets) and agreeing(json.dumps(networks), b"".join(of_kinds)) is None:
            raise AssertionError("what a seed says agrees with no file")
    fuzz(FOLDER, one, seeds, ["networks", "kind", "keys", *(f"kinds.{k}.{name}" for k, name in itertools.product(
        range(2), ("params", *NUMBERS, *FLOATS))), "number", "numbers", *files._FIELDS_OF_MANY, *files._FIELDS_OF_KIND])


if __name__ == "__main__":
    main()
