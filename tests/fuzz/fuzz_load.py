"""Fuzzes `fastbp.load`, guided by coverage of its Python: `python tests/fuzz/fuzz_load.py -max_total_time=1200`.

Needs atheris (`pip install atheris`). Options are libFuzzer's; what it finds stays in build/fuzz/, where the next run
begins. Every input is tried three times: as a file; as a header, in a file that carries the right digest; and as
what a header says about the network, in a file where all else agrees with it. So what lies behind each check is
reached. What comes of a file must be FormatError, a row that is not given, or a network; and that network must be saved
as the very same bytes. Anything else ends the run with a traceback and the input in a file, as does an input that takes
a second, or one for which memory grows beyond 1 GB.
"""

import json
import math
import os
import sys
from pathlib import Path

import atheris
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["fastbp"]):
    import fastbp
    from fastbp import files

from forge import START, described, padded, signed, split  # noqa: E402
from test_files import GOLDEN, MINE, trained  # noqa: E402

FOLDER = ROOT / "build" / "fuzz"
FILE, AGAIN = FOLDER / "file", FOLDER / "again"
SEPARATOR = b"\n--data--\n"  # what is behind it becomes the data of the file


def try_to_load(content):
    FILE.write_bytes(content)
    try:
        net = fastbp.load(FILE, rows=[MINE])
    except fastbp.FormatError:
        return
    except ValueError as error:
        if not str(error).startswith("rows: "):
            raise
        return
    net.save(AGAIN)
    (entries, network), (entries_again, network_again) = described(content), described(AGAIN.read_bytes())
    network["fastbp"] = network_again["fastbp"]  # any word may stand there
    network_again["training"] = {name: network_again["training"][name] for name in network["training"]}
    same = split(content)[1] == split(AGAIN.read_bytes())[1]
    if not same or (entries, network) != (entries_again, network_again):
        raise AssertionError("a file was accepted that is not what its network is saved as")


def agreeing(words, data):
    """The file of what the words say about a network, with the tensors that these ask for; None where they do not."""
    try:
        network = json.loads(words)
        dtype = np.dtype(network["dtype"])
        tensors = files._layer_tensors(network["sizes"], network["bias"], dtype)
        n_params = sum(math.prod(shape) for _, shape in tensors.values())
        for field in network["training"]:
            items = network["training"][field].items() if isinstance(network["training"][field], dict) else ()
            tensors |= {f"{field}.{name}": (dtype, (n_params,)) for name, item in items if item == {"": "tensor"}}
        header = files._header(network, tensors)
        n_bytes = sum(math.prod(shape) for _, shape in tensors.values()) * dtype.itemsize
        if n_bytes >= 1 << 16:
            return None
        return signed(header, (data * (n_bytes // max(1, len(data)) + 1))[:n_bytes])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return None


def one(data):
    try_to_load(data)
    words, _, data = data.partition(SEPARATOR)
    try_to_load(signed(padded(START + b"0" * 64 + words), data))
    file = agreeing(words, data)
    if file is not None:
        try_to_load(file)


def seeds_of(content, what, data=None):
    """A file as an input, its header as one, and what that says, with this data behind it."""
    header, whole = split(content)
    words = json.loads(header)["__metadata__"][what].encode()
    return [content, header.rstrip()[len(START) + 64 :] + SEPARATOR + whole,
            words + SEPARATOR + (whole if data is None else data)]  # fmt: skip


def fuzz(folder, one, seeds, words):
    """Try `one` with inputs that begin with the seeds; words are the dictionary."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for k, seed in enumerate(seeds):
        (corpus / f"seed-{k}").write_bytes(seed)
    words = ["__metadata__", "sha256", "data_offsets", "dtype", "shape", *words, *files._CODES.values(), *files._CODES,
             *fastbp.activations.TABLE, *trained()._state.to_dict(), *fastbp.training.state._NO_PLATEAU, "velocity",
             "accumulated", "average", "inf", "nan", "tensor", "null", "1e400", "18446744073709551616"]  # fmt: skip
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    options = ["-max_len=4096", "-timeout=1", "-rss_limit_mb=1024", f"-dict={folder / 'words'}",
               f"-artifact_prefix={folder}/found-"]  # fmt: skip
    os.fsync = lambda _: None  # what is on the disk is no matter here
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus)], one)
    atheris.Fuzz()


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    contents = [GOLDEN.read_bytes()]
    for options in ({}, {"bias": False, "dtype": "float64"}, {"activation": "tanh"}):
        trained(**options).save(FILE)
        contents.append(FILE.read_bytes())
    seeds = [seed for content in contents for seed in seeds_of(content, "network")]
    fuzz(FOLDER, one, seeds, ["network", "layers.0.weight", *files._FIELDS])


if __name__ == "__main__":
    main()
