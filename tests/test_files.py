"""Files: the same network afterwards, a whole file at any moment, and nothing but FormatError from any other file."""

import ctypes
import errno
import gc
import gzip
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import test_state
from conftest import every_case, frozen
from forge import START, described, forged, mutated, padded, signed, split, text
from test_process import IMPORTED_FROM, python
from test_state import FAMILIES, RUNS, bits, build, data, targets

import fastbp
from fastbp import SGD, Adam, FormatError, backends, files, schedules
from fastbp.rows import Activation

MINE = Activation("mine", "z * TANH(z)", "g * (TANH(z) + z * (1 - TANH(z) * TANH(z)))")
RULE = SGD(lr=schedules.ReduceOnPlateau(0.01, patience=0), momentum=0.9, accumulate=3, average=0.9)
GOLDEN = Path(__file__).with_name("data") / "format_1.safetensors"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's files and processes")


def trained(shuffle=True, **options):
    """A network with everything that a file holds, in the midst of an epoch; its hidden row is not fastbp's own."""
    net = fastbp.MLP((3, 4, 2), **{"activation": MINE, "dropout": 0.25, "seed": 5, "backend": "reference"} | options)
    net.freeze(1, weight=False)
    X = test_state.DATA[:, :3]
    net.fit(X, X[:, :2], optimizer=RULE, batch_size=4, steps=11, seed=7, shuffle=shuffle)
    return net


def load(path):
    return fastbp.load(path, rows=[MINE])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of the file of `trained`."""
    path = tmp_path_factory.mktemp("content") / "net"
    trained().save(path)
    return path.read_bytes()


def refused(path, content=None, match=None):
    """Whether FormatError is what comes of a file, and nothing else."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=match) as caught:
        load(path)
    assert repr(str(path)) in str(caught.value)
    return True


# ------------------------------------------------------------------ the same network


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_is_what_was_saved(family, dtype, bias, path):
    net = build("reference" if dtype == "float16" else "auto", dtype, family, bias=bias)
    assert net.save(path) is None
    assert bits(fastbp.load(path)) == bits(net)
    net.fit(*data(family), batch_size=4, steps=11, optimizer=test_state.RULE)
    net.save(str(path))
    loaded = fastbp.load(os.fsencode(path))
    assert bits(loaded) == bits(net) and loaded.backend == net.backend and loaded.dtype == net.dtype
    X = data(family)[0]
    assert loaded.predict(X).tobytes() == net.predict(X).tobytes()


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_with_the_same_bits(run, backend, path):
    """Saved at the end of an epoch, and in its midst."""
    X, _ = data("tiny")
    y, options = targets(run), RUNS[run]
    whole, net = build(backend), build(backend)
    whole.fit(X, y, epochs=4, **options)
    done = 0
    for steps in (whole.step // 4, whole.step // 3):
        net.fit(X, y, steps=steps, **options)
        net.save(path)
        net, done = fastbp.load(path), done + steps
    net.fit(X, y, steps=whole.step - done, **options)
    assert bits(net) == bits(whole)


WITH_TESTS = os.pathsep.join([IMPORTED_FROM, str(Path(__file__).parent)])  # a PYTHONPATH
RULES = {  # with schedules that look at the step, and at losses of former epochs
    "momentum": SGD(lr=schedules.Cosine(0.05, steps=32), momentum=0.9, weight_decay=1e-3),
    "Adam": Adam(lr=schedules.Warmup(0.01, steps=20), amsgrad=True, accumulate=3, average=0.9),
    "plateau": RULE,
}


@pytest.mark.parametrize("rule", RULES)
def test_two_epochs_and_two_in_a_new_process_are_four(rule, path):
    """With shuffling, dropout, state of the optimizer and a schedule on."""
    script = """
        import sys
        import fastbp
        import test_state, test_files
        _, path, part, rule = sys.argv
        net = fastbp.load(path) if part == "2" else test_state.build(family="few outputs", dropout=0.2)
        net.fit(*test_state.data("few outputs"), epochs=2, batch_size=4, optimizer=test_files.RULES[rule])
        net.save(path)
    """
    for part in "12":
        python(script, path, part, rule, PYTHONPATH=WITH_TESTS)
    net = build(family="few outputs", dropout=0.2)
    net.fit(*data("few outputs"), epochs=4, batch_size=4, optimizer=RULES[rule])
    assert bits(fastbp.load(path)) == bits(net)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_loaded_network_is_saved_as_the_same_bytes(dtype, path, tmp_path):
    trained(dtype=dtype).save(path)
    load(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_parameters_that_are_not_finite_are_saved_bit_by_bit(path):
    net = trained()
    net.weights[0][:] = np.frombuffer(b"\x01\x00\xc0\x7f\x00\x00\x80\xff\x02\x00\xa0\xff", np.float32)[:, None]
    net.weights[1][:] = -0.0
    net.save(path)
    assert bits(load(path)) == bits(net)


def test_the_state_after_reset_training_is_saved(path):
    net = trained()
    net.reset_training()
    net.save(path)
    assert bits(load(path)) == bits(net)


def test_a_loaded_network_is_as_good_as_any(path):
    """Writable, padded, on its own memory, pickled, and trained further."""
    net = trained()
    net.save(path)
    loaded = load(path)
    path.unlink()
    loaded.weights[0][...] = 1
    loaded.fit(np.ones((5, 3)), np.ones((5, 2)), epochs=2)
    assert bits(pickle.loads(pickle.dumps(loaded))) == bits(loaded)


# Fields that the training state may get: none of them needs a word in files.py.
@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, -np.inf, "word", [1, [2, None]], {"a": {"b": 1}}, np.arange(6, dtype=np.int16).reshape(2, 3),
     {"best": np.inf, "masks": [np.ones(3, bool), np.zeros((0, 4))], "n": np.float64(1.5)}, np.uint64(2**64 - 1)],
    ids=repr,
)  # fmt: skip
def test_whatever_the_training_state_holds_is_saved(value, path, monkeypatch):
    state = fastbp.training.state.TrainingState
    to_dict, from_dict = state.to_dict, state.from_dict.__func__

    def restored(cls, spec, saved):
        made = from_dict(cls, spec, saved)
        made.more = saved["more"]
        return made

    net = trained()
    net.save(path)  # older than the field
    monkeypatch.setattr(state, "more", value, raising=False)
    monkeypatch.setattr(state, "to_dict", lambda self: to_dict(self) | {"more": self.more})
    monkeypatch.setattr(state, "from_dict", classmethod(restored))
    assert bits(load(path)) == bits(net), "the field is as at the start"
    net.save(path)
    monkeypatch.setattr(state, "more", "another start")
    loaded = load(path)
    assert frozen(loaded._state.more) == frozen(value)
    if isinstance(value, np.ndarray):
        assert loaded._state.more.flags.writeable and loaded._state.more.flags.aligned
    monkeypatch.undo()
    refused(path, match="more")  # younger than this fastbp


# ------------------------------------------------------------------ the layout


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_safetensors_package_reads_the_same_arrays(dtype, bias, path):
    safetensors, numpy = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.numpy")
    net = trained(dtype=dtype, bias=bias)
    net.save(path)
    wanted = {f"layers.{k}.weight": weight for k, weight in enumerate(net.weights)}
    wanted |= {f"layers.{k}.bias": vector for k, vector in enumerate(net.biases)}
    state = net._state
    of_state = {"slots.velocity": state.slots["velocity"], "sums.accumulated": state.accumulated,
                "sums.average": state.average}  # fmt: skip
    wanted |= {name: net._spec.flatten(buffer) for name, buffer in of_state.items()}
    found = numpy.load_file(path)
    assert frozen(dict(sorted(found.items()))) == frozen(dict(sorted(wanted.items())))
    with safetensors.safe_open(path, "numpy") as file:
        network = json.loads(file.metadata()["network"])
    assert network["format"] == "fastbp" and network["version"] == files.VERSION
    assert network["sizes"] == [3, 4, 2] and network["activations"] == ["mine", "identity"]
    assert network["rows"] == ["mine"] and network["bias"] is bias and network["dtype"] == dtype
    assert network["backend"] == "reference" and network["dropout"] == [0.0, 0.25]
    assert network["trains"] == [[True, True], [True, False]] and network["training"]["count"] == [11]


def test_the_digest_is_that_of_the_file_with_its_digits_as_zeros(content):
    header, tensors = split(content)
    assert signed(header, tensors) == content
    assert header.startswith(START) and len(header) % 8 == 0


def golden_network():
    """What the golden file holds, in numbers that need no rounding."""
    net = fastbp.MLP((3, 4, 2), activation=MINE, output_activation="sigmoid", dropout=0.25, seed=5, backend="reference")
    net.freeze(1, weight=False)
    net.unflatten(np.arange(26) / 8 - 1)
    state = net._state
    state.seed, state.count[:], state.place[:], state.data_shape, state.family = 2**64 - 1, 11, (1, 12), (29, 4), "sgd"
    state.slots["velocity"] = net._spec.padded(np.arange(26) / -16)
    state.updates, state.since, state.accumulate = 2, 5, 3
    state.accumulated, state.average = (net._spec.padded(np.arange(26) / k) for k in (32, 64))
    state._plateau = {"scale": 0.5, "best": 0.25, "bad": 1, "wait": 0}
    return net


def test_the_golden_file_of_version_1_loads_for_ever():
    loaded, wanted = load(GOLDEN), golden_network()
    assert bits(loaded) == bits(wanted)
    X = test_state.DATA[:, :3]
    for net in loaded, wanted:
        net.fit(X, X[:, :2] > 0, optimizer=RULE, batch_size=4, steps=12)
    assert bits(loaded) == bits(wanted)


def test_a_new_file_differs_from_the_golden_one_in_what_wrote_it_and_in_younger_fields_alone(path):
    golden_network().save(path)
    (old_entries, old), (entries, new) = described(GOLDEN.read_bytes()), described(path.read_bytes())
    assert list(entries.items())[: len(old_entries)] == list(old_entries.items())
    old["fastbp"], old["training"] = new["fastbp"], {**new["training"], **old["training"]}
    assert old == new


def test_the_code_of_the_page_on_files_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text()
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(code, "files.md", "exec"), names)
    whole = fastbp.MLP((2, 16, 1), activation="tanh", dropout=0.1, seed=0)
    whole.fit(names["X"], names["y"], optimizer=names["adam"], batch_size=10, epochs=8)
    assert bits(names["net"]) == bits(whole)
    assert names["own"].n_params == 17
    assert sorted(os.listdir()) == ["net.safetensors", "own.safetensors", "shops.safetensors"]
    assert list(names["shops"]) == ["Bern", "Chur"]


# ------------------------------------------------------------------ arguments


def test_a_row_of_ones_own_is_found_by_its_name(path):
    net = trained()
    net.save(path)
    other = Activation("other", "z", "g")
    assert bits(fastbp.load(path, rows=(other, MINE))) == bits(net)
    for rows in ((), [other]):
        with pytest.raises(ValueError, match="rows: .* needs 'mine'") as caught:
            fastbp.load(path, rows=rows)
        assert not isinstance(caught.value, FormatError)
    with pytest.raises(ValueError, match="two of them are called 'mine'"):
        fastbp.load(path, rows=[MINE, Activation("mine", "z", "g")])
    with pytest.raises(TypeError, match="rows must be a sequence of activations, got 'mine'"):
        fastbp.load(path, rows=["mine"])


def test_a_row_that_has_the_name_of_a_built_in_one_is_not_taken_for_it(path):
    own = Activation("tanh", "z", "g")
    net = trained(activation=own)
    net.save(path)
    with pytest.raises(ValueError, match="needs 'tanh'"):
        fastbp.load(path)
    assert bits(fastbp.load(path, rows=[own])) == bits(net)
    trained(activation="tanh").save(path)
    assert fastbp.load(path, rows=[own])._spec.activations[0] == fastbp.activations.TABLE["tanh"]


def test_two_rows_of_one_name_are_refused(path):
    net = fastbp.MLP((2, 3, 3, 1), activation=[MINE, Activation("mine", "z", "g")])
    with pytest.raises(ValueError, match="two rows of this network are called 'mine'"):
        net.save(path)
    net = fastbp.MLP((2, 3, 3, 1), activation=[Activation("tanh", "z", "g"), "tanh"])
    with pytest.raises(ValueError, match="two rows of this network are called 'tanh'"):
        net.save(path)
    assert not path.exists()


@pytest.mark.parametrize("wrong", [None, 3, True, 2.5, ["x"]], ids=repr)
def test_a_path_of_the_wrong_kind_is_refused(wrong):
    for call in (trained().save, fastbp.load):
        with pytest.raises(TypeError, match=rf"path must be a str, .*binary file .*, got {re.escape(repr(wrong))}"):
            call(wrong)


def test_a_path_with_a_null_byte_is_refused(tmp_path):
    for call in (trained().save, fastbp.load):
        with pytest.raises(ValueError, match="null"):
            call(f"{tmp_path}/a\0b")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here")
def test_a_dtype_that_the_format_does_not_have_is_refused(path):
    with pytest.raises(ValueError, match="cannot hold"):
        fastbp.MLP((2, 1), dtype=np.longdouble, backend="reference").save(path)
    assert not path.exists()


def test_more_layers_than_a_header_holds_are_refused_when_saved(path):
    net = fastbp.MLP((1,) * 1201, seed=0)
    net.save(path)
    assert bits(fastbp.load(path)) == bits(net)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="too many layers"):
        fastbp.MLP((1,) * 2001, seed=0).save(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        trained().save(tmp_path / "nowhere" / "net")
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------ file objects


class Meagre:
    """A file object with no more than it has to have, which takes and gives a few bytes at a time."""

    def __init__(self, content=b""):
        self.content = content

    def write(self, part):
        self.content += bytes(part[:700])
        return min(len(part), 700)

    def read(self, n):
        part, self.content = self.content[: min(n, 700)], self.content[min(n, 700) :]
        return part


class Silent(io.BytesIO):
    """Writes all, and does not say so."""

    def write(self, part):
        super().write(part)


@contextmanager
def in_a_zip(path, mode):
    with zipfile.ZipFile(path, mode) as archive, archive.open("net", mode) as file:
        yield file


OPENED = {  # a file object at a path, in mode "w" or "r"
    "buffered": lambda path, mode: open(path, f"{mode}b"),
    "raw": lambda path, mode: open(path, f"{mode}b", buffering=0),
    "gzip": lambda path, mode: gzip.open(path, f"{mode}b"),
    "in a zip": in_a_zip,
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_file_object_takes_and_gives_the_bytes_of_a_file(kind, content, path):
    net = trained()
    with OPENED[kind](path, "w") as file:
        net.save(file)
    with OPENED[kind](path, "r") as file:
        assert file.read() == content
    with OPENED[kind](path, "r") as file:
        assert bits(load(file)) == bits(net)


@pytest.mark.parametrize("kind", [io.BytesIO, Silent, Meagre, tempfile.SpooledTemporaryFile])
def test_networks_stand_one_behind_the_other_in_a_file_object(kind, content):
    nets, file = [trained(), fastbp.MLP((2, 1), seed=4), trained(seed=6)], kind()
    for net in nets:
        net.save(file)
    if kind is not Meagre:
        file.seek(0)
    for net in nets:
        assert bits(load(file)) == bits(net)
    assert file.read(1) == b""
    with pytest.raises(FormatError):
        load(file)


def test_a_network_goes_through_a_pipe(content):
    """Which cannot go back, and has no size."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as source, open(write, "wb", buffering=0) as sink:
        net = trained()
        thread = threading.Thread(target=lambda: (net.save(sink), sink.close()))
        thread.start()
        assert bits(load(source)) == bits(net) and source.read() == b""
        thread.join()


def test_a_file_object_that_is_not_ready_says_so(content):
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    with open(read, "rb", buffering=0) as source, open(write, "wb", buffering=0) as sink:
        sink.write(content[:-1])
        with pytest.raises(BlockingIOError):
            load(source)
        with pytest.raises(BlockingIOError):
            fastbp.MLP((200, 200), seed=0).save(sink)


def test_a_file_object_of_the_wrong_kind_is_refused(path):
    net = trained()
    closed = io.BytesIO()
    closed.close()
    for file in (io.StringIO(), open(path, "w+")):
        for call in (net.save, fastbp.load):
            with pytest.raises(TypeError, match="path: the file object must be a binary one"):
                call(file)
        file.close()
    with open(path, "wb") as writes, open(path, "rb") as reads:
        for call, file in ((net.save, reads), (fastbp.load, writes), (net.save, closed), (fastbp.load, closed)):
            with pytest.raises(ValueError, match="path: one cannot (read|write) .*") as caught:
                call(file)
            assert not isinstance(caught.value, FormatError)
    for call in (net.save, fastbp.load):
        with pytest.raises(TypeError, match="path must be .*, got <class '_io.BytesIO'>"):
            call(io.BytesIO)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_contents_of_a_file_are_not_taken_for_a_path(kind, content):
    for call in (load, trained().save):
        with pytest.raises(TypeError, match=r"path: these bytes are no path.*use io\.BytesIO\(\.\.\.\)$"):
            call(kind(content))


@pytest.mark.parametrize("path", ["", "models/"])
def test_the_name_of_a_folder_is_no_name_of_a_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError, match="the name of a file is wanted"):
        trained().save(path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_told_that_one_of_its_members_is_wanted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        with pytest.raises(TypeError, match="path: the file object must be a binary one"):
            fastbp.load(archive)


def test_a_path_may_be_bytes(path):
    net = trained()
    net.save(os.fsencode(path))
    assert bits(load(os.fsencode(path))) == bits(net)


def test_a_file_object_that_was_cut_or_changed_is_refused(content):
    for k in range(0, len(content), 1 if every_case else 7):
        for wrong in (content[:k], content[:k] + bytes([content[k] ^ 1 << k % 8]) + content[k + 1 :]):
            for kind in (io.BytesIO, Meagre):
                with pytest.raises(FormatError, match="BytesIO|Meagre"):
                    load(kind(wrong))


def test_a_hostile_file_object_gets_memory_for_what_it_gives_alone(content):
    """Headers that claim up to 1 TB."""
    hostile = [file for _, file in raw_headers(content)] + [forged(content, how) for how in HOSTILE.values()]
    tracemalloc.start()
    try:
        for file in hostile:
            if not file.startswith(content):
                with pytest.raises(FormatError):
                    load(io.BytesIO(file))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ threads


def test_a_network_that_another_thread_trains_is_not_saved(path):
    net, inside, go_on = trained(), threading.Event(), threading.Event()
    net._evaluate = lambda *_, **more: inside.set() or go_on.wait(60) or 0.0
    X = test_state.DATA[:, :3]
    thread = threading.Thread(target=net.fit, args=(X, X[:, :2]), kwargs={"epochs": 1, "eval_every": net.step + 1})
    thread.start()
    assert inside.wait(60)
    try:
        with pytest.raises(RuntimeError, match="another thread is training"):
            net.save(path)
        assert not path.exists()
    finally:
        go_on.set()
        thread.join()
    net.save(path)
    assert bits(load(path)) == bits(net)


def test_the_thread_that_trains_saves_between_two_steps_and_the_run_goes_on_from_there(path):
    X = test_state.DATA[:, :3]
    run = {"batch_size": 4, "optimizer": RULE}
    net = trained()
    net._evaluate = lambda *_, **more: net.save(path) or 0.0
    net.fit(X, X[:, :2], steps=7, eval_every=16, **run)  # saved at step 16 of 18
    loaded = load(path)
    assert loaded.step == 16
    loaded.fit(X, X[:, :2], steps=2, **run)
    assert bits(loaded) == bits(net)


def test_saving_leaves_a_pending_forward_alone(path):
    net, x = trained(), np.ones((2, 3))
    net.forward(x)
    net.save(path)
    assert net.backward(np.ones((2, 2))).shape == (2, 3)


def test_what_is_saved_while_threads_train_is_a_state_that_the_network_had(path):
    """Each step adds 1 to every parameter: a file holds one number only. Large, since a switch comes every 5 ms."""
    net = fastbp.MLP((300, 2000, 300), activation="identity", bias=False, init="zeros")
    stop = threading.Event()

    def train():
        while not stop.is_set():
            try:
                net.grads[:] = -1
                net.update(SGD(lr=1.0))
            except RuntimeError:  # a save holds the network
                pass
            stop.wait(1e-3)

    thread = threading.Thread(target=train)
    thread.start()
    saved = 0
    try:
        deadline = time.monotonic() + 60
        while saved < 20 and time.monotonic() < deadline:
            try:
                net.save(path)
            except RuntimeError:
                continue
            saved += 1
            loaded = fastbp.load(path)
            assert np.unique(loaded.flatten()).tolist() == [loaded.step]
    finally:
        stop.set()
        thread.join()
    assert saved


# ------------------------------------------------------------------ files that nobody saved


def test_a_file_cut_at_any_byte_is_refused(content, path):
    path.write_bytes(content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        refused(path)


def test_a_file_with_any_bit_flipped_is_refused(content, path):
    path.write_bytes(content)
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
                refused(path)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert path.read_bytes() == content


def test_a_file_with_bytes_before_or_behind_it_is_refused(content, path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    for extra in (b"\0", b"\n", content, archive.getvalue()):
        refused(path, content + extra)
        refused(path, extra + content)


@pytest.mark.parametrize("signing", [False, True], ids=["as it is", "signed"])
def test_mutated_files_are_refused(signing, content, path):
    """One that is signed anew may happen to be the file of another network: then that is what it is saved as."""
    rng = random.Random(int(signing))
    header, tensors = split(content)
    rest, accepted = header[len(START) + 64 :], 0
    for _ in range(10_000 if every_case else 500):
        if not signing:
            refused(path, mutated(rng, content))
            continue
        new = padded(START + b"0" * 64 + mutated(rng, rest).rstrip())
        path.write_bytes(signed(new, tensors))
        try:
            net = load(path)
        except ValueError:  # a FormatError, or a row that is not given
            continue
        net.save(path)
        entries, network = described(path.read_bytes())
        network["fastbp"] = described(signed(new))[1]["fastbp"]  # any word is right there
        whole = json.loads(new)
        assert text(network) == whole["__metadata__"]["network"] and whole | entries == whole
        accepted += 1
    print(f"{accepted} of the signed files are those of networks")


def with_network(**changes):
    return lambda network, entries: network.update(changes)


def with_training(**changes):
    return lambda network, entries: network["training"].update(changes)


def with_entry(name, **changes):
    return lambda network, entries: entries[name].update(changes)


def without(name):
    return lambda network, entries: entries.pop(name, None) or network.pop(name, None) or network["training"].pop(name)


def repeated(network, entries):
    return text(network)[:-1] + ',"bias":true}'


def nested(network, entries):
    return "[" * 100_000


def reordered(network, entries):
    first = next(iter(entries))
    entries[first] = entries.pop(first)


def a_sum_called_as_a_method(network, entries):
    network["training"]["sums"] = {"to_dict": {"": "tensor"}, "average": {"": "tensor"}}
    entries["sums.to_dict"], entries["sums.average"] = entries.pop("sums.accumulated"), entries.pop("sums.average")
    (_, first), (_, second) = list(entries.items())[-2:]
    first["data_offsets"], second["data_offsets"] = [208, 312], [312, 416]


HUGE = 2**64 // 4
HOSTILE = {
    # the network
    "not an object": lambda network, entries: "[]",
    "no JSON": lambda network, entries: "os.system('true')",
    "nothing": lambda network, entries: "",
    "brackets": nested,
    "a key twice": repeated,
    "space": lambda network, entries: json.dumps(network),
    "NaN": with_network(sizes=[3, float("nan"), 2]),
    "1e400": lambda network, entries: text(network).replace('"count":[11]', '"count":[1e400]'),
    "a number of 100,000 digits": lambda network, entries: text(network).replace("[11]", f"[{'1' * 100_000}]"),
    "another format": with_network(format="fastbq"),
    "no format": without("format"),
    "no sizes": without("sizes"),
    "one more field": with_network(more=1),
    "version 0": with_network(version=0),
    "version true": with_network(version=True),
    "version 1.0": with_network(version=1.0),
    "sizes that do not chain": with_network(sizes=[3, 5, 2]),
    "too few sizes": with_network(sizes=[3]),
    "more sizes": with_network(sizes=[3, 4, 2, 1]),
    "many sizes": with_network(sizes=[1] * 50_000),
    "sizes 0": with_network(sizes=[3, 0, 2]),
    "sizes below 0": with_network(sizes=[3, -4, 2]),
    "sizes true": with_network(sizes=[3, True, 2]),
    "sizes 4.0": with_network(sizes=[3, 4.0, 2]),
    "sizes that wrap": with_network(sizes=[2**33, 2**33, 2**33]),
    "an activation of nobody": with_network(activations=["mine", "nonsense"]),
    "an activation by path": with_network(activations=["mine", "../x"]),
    "too few activations": with_network(activations=["mine"]),
    "no activations": with_network(activations=[]),
    "activations of another kind": with_network(activations=[["mine"], "identity"]),
    "rows of another kind": with_network(rows=[["mine"]]),
    "bias null": with_network(bias=None),
    "bias false": with_network(bias=False),
    "another dtype": with_network(dtype="float64"),
    "a dtype of nobody": with_network(dtype="float8"),
    "an integer dtype": with_network(dtype="int32"),
    "a structured dtype": with_network(dtype="f4,f4"),
    "a backend of nobody": with_network(backend="nonsense"),
    # the training state
    "no training": with_network(training={}),
    "training of another kind": with_network(training=[]),
    "one more field of training": with_training(more=1),
    "no slots": with_training(slots={}),
    "slots as lists": with_training(slots={"velocity": [0.0] * 26}),
    "slots of nothing": with_training(slots={"velocity": {"": "tensor"}, "other": {"": "tensor"}}),
    "slots with a mark and more": with_training(slots={"velocity": {"": "tensor", "x": 1}}),
    "slots of another kind": with_training(slots=[{"": "tensor"}]),
    "count below 0": with_training(count=[-1]),
    "count of 2": with_training(count=[1, 2]),
    "count nothing": with_training(count=[]),
    "count 1.5": with_training(count=[1.5]),
    "count true": with_training(count=[True]),
    "count too large": with_training(count=[2**63 - 1]),
    "count far too large": with_training(count=[2**64]),
    "count of words": with_training(count=["11"]),
    "count by itself": with_training(count=11),
    "count infinite": with_training(count=[{"": "inf"}]),
    "an unknown mark": with_training(count=[{"": "nonsense"}]),
    "a mark for a number": with_training(count=[{"": "11.0"}]),
    "epoch below 0": with_training(place=[-1, 12]),
    "a row below 0": with_training(place=[1, -4]),
    "a row behind the last": with_training(place=[1, 32]),
    "a row far away": with_training(place=[1, 4 * 10**17]),
    "a row within a batch": with_training(place=[1, 13]),
    "a place of 1": with_training(place=[1]),
    "a place and no data": with_training(data_shape=None),
    "data of no rows": with_training(data_shape=[0, 0], place=[1, 0]),
    "batches of no rows": with_training(data_shape=[29, 0]),
    "batches of more rows than there are": with_training(data_shape=[29, 30], place=[1, 0]),
    "data of three axes": with_training(data_shape=[29, 4, 1]),
    "data of words": with_training(data_shape=["29", "4"]),
    "data 29.0": with_training(data_shape=[29.0, 4]),
    "one seed": with_training(seeds=[5]),
    "three seeds": with_training(seeds=[5, 7, 9]),
    "a seed below 0": with_training(seeds=[-1, 7]),
    "a seed of 65 bits": with_training(seeds=[5, 2**64]),
    "a seed of none": with_training(seeds=[None, 7]),
    "a family of numbers": with_training(family=3),
    "a count of updates below 0": with_training(counted=[-1, 0, 3]),
    "updates since a step to come": with_training(counted=[0, 12, 3]),
    "updates of no batches": with_training(counted=[0, 0, 0]),
    "no count of updates": with_training(counted=[0, 0]),
    "a plateau of nothing": with_training(plateau={}),
    "a link that is none": with_training(link="sigmoid2"),
    "a plateau of more": with_training(plateau={"scale": 1.0, "best": 1.0, "bad": 0, "wait": 0, "more": 0}),
    "a plateau below 0": with_training(plateau={"scale": 1.0, "best": 1.0, "bad": -1, "wait": 0}),
    "a wait below 0": with_training(plateau={"scale": 1.0, "best": 1.0, "bad": 0, "wait": -1}),
    "a scale below 0": with_training(plateau={"scale": -1.0, "best": 1.0, "bad": 0, "wait": 0}),
    "a scale of NaN": with_training(plateau={"scale": {"": "nan"}, "best": 1.0, "bad": 0, "wait": 0}),
    "a best word": with_training(plateau={"scale": 1.0, "best": "1", "bad": 0, "wait": 0}),
    "no sums": with_training(sums={}),
    "a sum called as a method": a_sum_called_as_a_method,
    # the rest
    "dropout 1": with_network(dropout=[0.0, 1.0]),
    "dropout below 0": with_network(dropout=[0.0, -0.25]),
    "dropout of one more": with_network(dropout=[0.0, 0.25, 0.25]),
    "dropout 0": with_network(dropout=[0, 0.25]),
    "no dropout": with_network(dropout=[0.0, 0.0]),
    "dropout of words": with_network(dropout=["0.0", 0.25]),
    "frozen for one layer": with_network(trains=[[True, True]]),
    "frozen by numbers": with_network(trains=[[1, 1], [1, 0]]),
    "frozen in three ways": with_network(trains=[[True, True, True], [True, True, True]]),
    "frozen altogether": with_network(trains=[True, True]),
    # the tensors
    "no bias": without("layers.0.bias"),
    "one tensor more": lambda network, entries: entries.update(
        x={"dtype": "F32", "shape": [0], "data_offsets": [416, 416]}),
    "tensors reordered": reordered,
    "offsets that overlap": with_entry("layers.0.bias", data_offsets=[0, 16]),
    "offsets with a hole": with_entry("layers.0.bias", data_offsets=[52, 68]),
    "offsets reversed": with_entry("layers.0.bias", data_offsets=[64, 48]),
    "offsets past the end": with_entry("slots.velocity", data_offsets=[104, 10**12]),
    "offsets below 0": with_entry("layers.0.weight", data_offsets=[-48, 0]),
    "another shape": with_entry("layers.0.weight", shape=[4, 3]),
    "a shape with more axes": with_entry("layers.0.weight", shape=[3, 4, 1]),
    "a shape that wraps": with_entry("slots.velocity", shape=[HUGE, 4, 26]),
    "a shape that wraps to 0": with_entry("slots.velocity", shape=[HUGE, 4]),
    "a shape of 1 TB": with_entry("slots.velocity", shape=[2**38]),
    "a shape of words": with_entry("slots.velocity", shape="26"),
    "a shape whose product is a list": with_entry("slots.velocity", shape=[[0], 10**12]),
    "a shape whose product is a word": with_entry("slots.velocity", shape=[10**12, "x"]),
    "a shape below 0": with_entry("slots.velocity", shape=[-26]),
    "a shape of 26.0": with_entry("slots.velocity", shape=[26.0]),
    "a shape with 20,000 axes": with_entry("slots.velocity", shape=[10**18] * 10_000),
    "a shape with 64 axes": with_entry("slots.velocity", shape=[1] * 63 + [26]),
    "a matrix as slot": with_entry("slots.velocity", shape=[2, 13]),
    "half as long a slot": with_entry("slots.velocity", dtype="F64", shape=[13]),
    "integers as slot": with_entry("slots.velocity", dtype="I32"),
    "an unknown dtype": with_entry("layers.0.weight", dtype="F8_E4M3"),
    "a dtype of another kind": with_entry("slots.velocity", dtype=["F32"]),
    "one more word of a tensor": with_entry("layers.0.weight", more=1),
    "a tensor that is a number": lambda network, entries: entries.update(x=1),
    "an endless name": lambda network, entries: entries.update({"x" * 100_000: entries.pop("slots.velocity")}),
    "a name that is a path": lambda network, entries: entries.update({"../../x": entries.pop("slots.velocity")}),
}  # fmt: skip


def raw_headers(content):
    """Files whose headers `save` would not write, wherever they come from; most of them carry the right digest."""
    header, tensors = split(content)
    one = header.rstrip()
    yield "no bytes", b""
    for n in (0, 1, 90, len(one) - 8, len(header) + 8, len(content), 2**18 + 8, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {n} bytes", n.to_bytes(8, "little") + content[8:]
    yield "a header of zeros", bytes(4096)
    yield "a header larger than allowed", signed(one + b" " * 2**18, tensors)
    yield "without padding", signed(one, tensors) if one != header else signed(one + b" " * 8, tensors)
    yield "more padding", signed(header + b" " * 8, tensors)
    yield "padding of another kind", signed(one + b"\n" * (8 + len(header) - len(one)), tensors)
    yield "not UTF-8", signed(header.replace(b"mine", b"m\xffne"), tensors)
    yield "UTF-8", signed(header.replace(b"mine", "mïn".encode()), tensors)
    yield "half a surrogate", signed(header.replace(b"mine", b"\\ud800"), tensors)
    yield "brackets", signed(padded(START + b"0" * 64 + b'"' + b"[" * 200_000), tensors)
    yield "brackets as an entry", signed(padded(one[:-1] + b',"x":' + b"[" * 200_000), tensors)
    yield "a key twice", signed(padded(one[:-1] + one[one.index(b',"layers.0.bias"') :]), tensors)
    yield "NaN", signed(padded(one[:-1] + b',"x":NaN}'), tensors)
    yield "1e400", signed(padded(one[:-1] + b',"x":1e400}'), tensors)
    yield "a number of 200,000 digits", signed(padded(one[:-1] + b',"x":' + b"1" * 200_000 + b"}"), tensors)
    yield "one more word of metadata", signed(header.replace(b'"network":', b'"other":"","network":'), tensors)
    yield "no metadata", signed(padded(b"{}" + b" " * 100), tensors)
    yield "capital digits", content[:8] + header[:27] + header[27:91].upper() + header[91:] + tensors
    yield "digits of zeros", content[:8] + header[:27] + b"0" * 64 + header[91:] + tensors
    yield "a 1 KB file of 1 TB", forged(content, lambda network, entries: network.update(sizes=[2**19, 2**19, 2]))
    yield "no data", signed(header)
    yield "half of the data", signed(header, tensors[: len(tensors) // 2])
    yield "more data", signed(header, tensors + bytes(4))


def other_formats(tmp_path):
    yield "a pickle", pickle.dumps(trained())
    for name in ("savez", "savez_compressed", "save"):
        file = io.BytesIO()
        getattr(np, name)(file, np.ones(99))
        yield name, file.getvalue()
    try:
        from safetensors.numpy import save
    except ImportError:
        return
    yield "safetensors", save({"layers.0.weight": np.ones((3, 4), np.float32)})
    yield "safetensors with metadata", save({"a": np.ones(3)}, {"sha256": "0" * 64, "network": "{}"})


def test_hostile_files_are_refused(content, path, tmp_path):
    for name, file in [*raw_headers(content), *other_formats(tmp_path)]:
        assert file != content
        assert refused(path, file), name


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_though_it_is_signed(what, content, path):
    new = forged(content, HOSTILE[what])
    assert new != content
    refused(path, new)


def test_what_is_forged_without_a_change_is_the_file_itself(content):
    assert forged(content) == content


def test_a_newer_version_is_named_beside_ones_own(content, path):
    refused(path, forged(content, with_network(version=99, later="field")), match="version 99 .* reads version 1")


@linux
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        refused(path, match="not a regular file")
    with pytest.raises(IsADirectoryError):
        fastbp.load(tmp_path)


@pytest.mark.serial
@pytest.mark.noasan
def test_hostile_files_are_refused_within_100_ms(content, path, request):
    """In processor time of the thread, which a busy machine stretches least, and without the garbage of other tests;
    beside the above, JSON of the largest size allowed.
    """
    gc.collect()
    gc.disable()
    request.addfinalizer(gc.enable)
    room = 2**18 - len(content)
    lists = {unit: b",".join([unit] * (room // (len(unit) + 1))) for unit in (b"1", b"[]", b"{}", b'{"a":1}', b"1.5")}
    one = split(content)[0].rstrip()[:-1]
    large = {str(unit): signed(padded(one + b',"x":[' + body + b"]}")) for unit, body in lists.items()}
    entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    large["entries"] = signed(padded(one + b"," + b",".join(entry % k for k in range(room // 60)) + b"}"))
    large["fields"] = forged(content, with_network(training={f"a{k}": 0 for k in range(room // 12)}))
    fastbp.load(GOLDEN, rows=[MINE])
    slowest = {}
    hostile = {name: forged(content, how) for name, how in HOSTILE.items()}
    for name, file in [*raw_headers(content), *hostile.items(), *large.items()]:
        path.write_bytes(file)
        assert len(file) < 2**19
        slowest[name] = 1.0
        for _ in range(3):  # the least: other processes take caches away, and what CPUs have in common
            start = time.thread_time()
            with pytest.raises(FormatError):
                load(path)
            slowest[name] = min(slowest[name], time.thread_time() - start)
    worst = max(slowest, key=slowest.get)
    assert slowest[worst] < 0.100, f"{worst}: {slowest[worst] * 1e3:.0f} ms"


LOADED_UNDER_WATCH = """
    import resource, sys
    import fastbp, fastbp.files
    from test_files import MINE
    seen = set()
    sys.addaudithook(lambda event, arguments: seen.add((event, str(arguments[0]) if event == "open" else "")))
    limit = 0
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + (8 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes = []
    for path in sys.argv[1:]:
        seen.clear()
        try:
            fastbp.load(path, rows=[MINE])
            outcomes.append("loaded")
        except fastbp.FormatError:
            outcomes.append("refused")
        # the reprs of errors are made here and not by `load`
        if seen - {("open", path), ("object.__getattr__", "")}:
            outcomes.append(f"{path}: {sorted(seen)}")
    print(*outcomes, sep="\\n")
"""


@linux
@pytest.mark.noasan
def test_no_file_runs_code_opens_another_or_asks_for_more_memory_than_it_has_bytes(content, tmp_path):
    """Under an audit hook, and with 8 MB of address space left."""
    names = []
    for k, file in enumerate([content, *(file for _, file in raw_headers(content)),
                              *(forged(content, how) for how in HOSTILE.values())]):  # fmt: skip
        names.append(tmp_path / str(k))
        names[-1].write_bytes(file)
    names.append(tmp_path / "sparse")  # a header of 64 MB
    names[-1].write_bytes((1 << 26).to_bytes(8, "little") + START)
    os.truncate(names[-1], (1 << 26) + 4096)
    out = python(LOADED_UNDER_WATCH, *names, PYTHONPATH=WITH_TESTS).splitlines()
    assert out == ["loaded"] + ["refused"] * (len(names) - 1)


# ------------------------------------------------------------------ the file on the disk


def others(path):
    """What lies beside a file."""
    return [name for name in os.listdir(path.parent) if name != path.name]


def test_a_new_file_has_the_mode_that_any_new_file_has(path):
    before = os.umask(0o027)
    try:
        trained().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_a_file_that_is_replaced_hands_on_its_mode(mode, path):
    trained().save(path)
    path.chmod(mode)
    net = trained(seed=6)
    net.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert bits(load(path)) == bits(net) and others(path) == []


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, net = tmp_path / "elsewhere" / "real", trained()
    path.symlink_to("elsewhere/real")
    for _ in range(2):  # at first it points to nothing
        net.save(path)
        assert path.is_symlink() and not real.is_symlink() and bits(load(real)) == bits(net)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(OSError) as caught:
        net.save(path)
    assert caught.value.errno == errno.ELOOP


def test_another_name_of_the_old_file_keeps_the_old_contents(path, tmp_path):
    trained().save(path)
    os.link(path, tmp_path / "other")
    before = path.read_bytes()
    trained(seed=6).save(path)
    assert (tmp_path / "other").read_bytes() == before != path.read_bytes()


@linux
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "fifo", tmp_path / "folder", "/dev/null"):
        before = os.stat(path)
        with pytest.raises(OSError, match="not a regular file"):
            trained().save(path)
        assert os.stat(path).st_ino == before.st_ino
    assert sorted(others(tmp_path / "net")) == ["fifo", "folder"]


@linux
def test_the_longest_name_that_a_folder_takes_is_no_trouble(tmp_path):
    net = trained()
    net.save(tmp_path / ("n" * 255))
    assert bits(load(tmp_path / ("n" * 255))) == bits(net)


def test_what_a_killed_save_left_behind_is_ignored(path, tmp_path):
    net = trained()
    for stale in (".fastbp-0123456789abcdef.tmp", ".fastbp-0123456789abcdef-old.tmp"):
        (tmp_path / stale).write_bytes(b"half a file")
    net.save(path)
    assert bits(load(path)) == bits(net) and len(others(path)) == 2


# ------------------------------------------------------------------ a save that fails

CALLS = "stat urandom chmod posix_fadvise link replace open fsync".split()
CALLS = [name for name in CALLS if hasattr(os, name)]


class Failing:
    """Functions of `os` that count their calls, and at one of them fail."""

    def __init__(self, monkeypatch):
        self.calls, self.at, self.error = [], None, None
        for name in CALLS:
            monkeypatch.setattr(files.os, name, self.counted(name, getattr(os, name)))

    def counted(self, name, function):
        def call(*arguments, **options):
            self.calls.append(name)
            if len(self.calls) - 1 == self.at:
                raise self.error
            return function(*arguments, **options)

        return call


def failed(net, path, error):
    """Whether a save ends with `error`."""
    try:
        net.save(path)
    except BaseException as caught:
        assert type(caught) is type(error) and (not isinstance(error, OSError) or caught.errno == error.errno)
        return True
    return False


ERRORS = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ENOSPC)] + [KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=["EIO", "ENOSPC", "Ctrl-C"])
@pytest.mark.parametrize("existing", [True, False], ids=["replacing", "new"])
def test_a_call_that_fails_leaves_the_old_file_and_nothing_else(existing, error, path, monkeypatch):
    old, new = trained(), trained(seed=6)
    if existing:
        old.save(path)
    before = path.read_bytes() if existing else None
    backends.config.version()  # asked once in a process
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    calls = Failing(monkeypatch)
    calls.error, failures = error, []
    for at in itertools.count():
        calls.calls, calls.at = [], at
        if not failed(new, path, error):
            break
        failures.append(calls.calls[at])
        assert (path.read_bytes() if path.exists() else None) == before, calls.calls
        assert others(path) == [], calls.calls
        if descriptors:
            assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [name for name in failures if name == "fsync"] == ["fsync", "fsync"]  # of the file and of its folder
    assert failures.index("replace") > failures.index("fsync")
    calls.at = None
    assert bits(load(path)) == bits(new) and others(path) == []


NOT_SUPPORTED = ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EPERM", "EACCES"]


def refuse(monkeypatch, name, number, of_a_folder=False):
    """Let a function of `os` fail, as on file systems that do not have it; perhaps for folders alone."""
    function, refused = getattr(os, name), []

    def call(*arguments, **options):
        what = arguments[0]
        is_folder = stat.S_ISDIR(os.fstat(what).st_mode) if isinstance(what, int) else os.path.isdir(what)
        if is_folder == of_a_folder:
            refused.append(what)
            raise OSError(number, os.strerror(number))
        return function(*arguments, **options)

    monkeypatch.setattr(files.os, name, call)
    return refused


@pytest.mark.parametrize("error", NOT_SUPPORTED)
@pytest.mark.parametrize("name, of_a_folder", [("fsync", True), ("open", True), ("chmod", False), ("link", False),
                                               ("posix_fadvise", False)])  # fmt: skip
def test_what_a_file_system_does_not_have_a_save_does_without(name, of_a_folder, error, path, monkeypatch):
    if name not in CALLS:
        pytest.skip(f"os.{name} is not there")
    trained().save(path)
    refused = refuse(monkeypatch, name, getattr(errno, error), of_a_folder)
    synced, fsync = [], os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda fd: (fsync(fd), synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))))
    for seed in (6, 7):
        net = trained(seed=seed)
        net.save(path)
        assert bits(load(path)) == bits(net) and others(path) == []
    path.unlink()
    net.save(path)  # a new one
    assert bits(load(path)) == bits(net) and others(path) == []
    assert refused and synced.count(False) == 3


@pytest.mark.parametrize("error", NOT_SUPPORTED)
def test_a_file_that_cannot_be_synced_is_not_saved(error, path, monkeypatch):
    trained().save(path)
    before = path.read_bytes()
    refuse(monkeypatch, "fsync", getattr(errno, error))
    with pytest.raises(OSError) as caught:
        trained(seed=6).save(path)
    assert caught.value.errno == getattr(errno, error)
    assert path.read_bytes() == before and others(path) == []


def fork(work):
    """The pid of a child that runs `work` and ends, with status 1 where it raises."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.__stderr__.write(traceback.format_exc())
        finally:
            os._exit(1)
    return pid


def ended(pid):
    """The exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@linux
def test_a_full_disk_leaves_the_old_file_and_nothing_else(path):
    """The system writes as much as it may, then less than asked for, then nothing."""
    trained().save(path)
    before, net = path.read_bytes(), trained(seed=6)

    def work():
        for size in (0, 1, 100, len(before) // 2, len(before) - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            with pytest.raises(OSError) as caught:
                net.save(path)
            assert caught.value.errno == errno.EFBIG
            assert path.read_bytes() == before and others(path) == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), resource.RLIM_INFINITY))
        net.save(path)

    assert ended(fork(work)) == 0
    assert bits(load(path)) == bits(net)


# ------------------------------------------------------------------ a save that is killed


def numbered(net, k):
    """The network with every parameter k."""
    net.unflatten(np.full(net.n_params, k))
    return net


def number_of(path):
    """The k of a file that is whole."""
    values = np.unique(fastbp.load(path).flatten())
    assert len(values) == 1
    return int(values[0])


@contextmanager
def saving(path, numbers, net):
    """A child that saves the network of each number, and says so behind each save; gives its pid and its words."""
    words, say = os.pipe()

    def work():
        for k in numbers:
            numbered(net, k).save(path)
            os.write(say, b"%d\n" % k)

    pid = fork(work)
    os.close(say)
    try:
        yield pid, words
    finally:
        os.close(words)
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL


def said(words):
    """The last number that was said, once there is nothing more to hear; 0 for none."""
    heard = b""
    while chunk := os.read(words, 1 << 16):
        heard += chunk
    return int(heard.split()[-1]) if heard else 0


@linux
def test_a_save_killed_at_any_moment_leaves_the_old_file_or_the_new_one(path):
    kills, rng, net = 1000 if every_case else 30, random.Random(0), fastbp.MLP((40, 50, 3), seed=0)
    lost = torn = 0
    numbered(net, 0).save(path)
    first = 0
    for _ in range(kills):
        with saving(path, itertools.count(first + 1), net) as (pid, words):
            time.sleep(rng.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            last = said(words) or first
        try:
            first = number_of(path)
        except (FormatError, AssertionError):
            torn += 1
            continue
        lost += first not in (last, last + 1)
    print(f"{kills} kills: lost {lost}, corrupt {torn}, {first} saved, {len(others(path))} temporaries left")
    assert lost == torn == 0
    assert first > 0


@linux
def test_who_loads_while_others_save_finds_a_whole_file(path):
    """Two save at once: one of them wins, and wholly."""
    loads = 1000 if every_case else 100
    nets = [fastbp.MLP((40, 50, 3), seed=0) for _ in range(2)]
    numbered(nets[0], 0).save(path)
    seen = set()
    with saving(path, itertools.count(1), nets[0]), saving(path, itertools.count(-1, -1), nets[1]):
        deadline = time.monotonic() + 60
        while (loads > 0 or len(seen) < 2) and time.monotonic() < deadline:
            seen.add(number_of(path) > 0)
            loads -= 1
    assert seen == {True, False} and loads <= 0


# ------------------------------------------------------------------ each system call of a save


def may_trace():
    """Why strace cannot be used here, or None."""
    if not shutil.which("strace"):
        return "needs strace (on Debian and Ubuntu: apt install strace)"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True)
    return None if done.returncode == 0 else "strace may not trace here"


LEFT_ALONE = {"futex", "rt_sigreturn", "restart_syscall", "exit_group"}


class Traced:
    """Saves one network in a child under strace, which does something to one system call."""

    def __init__(self, path, net):
        self.path, self.net, self.log = path, net, path.parent.with_name("trace")

    def save(self, *injection):
        """The exit status of the child (0 saved, 2 OSError, 3 MemoryError, -9 killed), and its system calls."""
        wait, go = os.pipe()

        def work():
            ctypes.CDLL(None).prctl(0x59616D61, -1)  # PR_SET_PTRACER: any process may trace this one
            gc.disable()  # it would ask the system for memory, or give some back, now here and now there
            os.read(wait, 1)
            try:
                self.net.save(self.path)
            except (OSError, MemoryError) as error:
                os._exit(2 if isinstance(error, OSError) else 3)

        pid = fork(work)
        try:
            command = ["strace", "-f", "-o", str(self.log), "-p", str(pid), *injection]
            with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
                said = b""
                while b"attached" not in said:
                    assert select.select([strace.stderr], [], [], 60)[0], "strace does not attach"
                    chunk = os.read(strace.stderr.fileno(), 4096)
                    assert chunk, said.decode()
                    said += chunk
                os.write(go, b"x")
                status = ended(pid)
        finally:
            os.close(wait)
            os.close(go)
        calls = re.findall(r"^\d+ +(\w+)\(", self.log.read_text(), re.M)
        return status, list(itertools.dropwhile("read".__eq__, calls))  # what it waited in; attached to, perhaps twice

    def points(self):
        """Each system call of a save, as (name, which of this name, for strace)."""
        _, calls = self.save()
        seen = {"read": 1}
        for name in calls:
            if name not in LEFT_ALONE:
                seen[name] = seen.get(name, 0) + 1
                yield name, seen[name]


@pytest.fixture
def traced(path):
    reason = may_trace()
    if reason:
        pytest.skip(reason)
    (path.parent / "in").mkdir()
    path = path.parent / "in" / path.name
    numbered(fastbp.MLP((40, 50, 3), seed=0), 1).save(path)
    return Traced(path, numbered(fastbp.MLP((40, 50, 3), seed=0), 2))


def restart(traced, before):
    for name in os.listdir(traced.path.parent):
        (traced.path.parent / name).unlink()
    traced.path.write_bytes(before)


@linux
@pytest.mark.slow
@pytest.mark.noasan
def test_a_save_killed_at_each_system_call_leaves_the_old_file_or_the_new_one(traced):
    """strace kills at the entry to a call: behind the one before it."""
    before = traced.path.read_bytes()
    points = list(traced.points())
    names = [name for name, _ in points]
    assert names.count("fsync") == 2 and "rename" in " ".join(names)
    kills, found = 0, []
    for name, k in points if every_case else points[:: max(1, len(points) // 12)]:
        restart(traced, before)
        status, calls = traced.save("-e", f"inject={name}:signal=KILL:when={k}")
        assert status == -signal.SIGKILL, (name, k, calls)
        kills += 1
        found.append(number_of(traced.path))
    print(f"killed at {kills} system calls: old {found.count(1)}, new {found.count(2)}, lost 0, corrupt 0")
    assert found == sorted(found)  # the old one, from some call on the new one
    assert set(found) == {1, 2} if every_case else 1 in found


MUST_FAIL = ("write", "fsync", "rename", "link", "chmod")


@linux
@pytest.mark.slow
@pytest.mark.noasan
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_system_call_that_fails_leaves_the_old_file_and_nothing_else(error, traced):
    before = traced.path.read_bytes()
    points = list(traced.points())
    failed = []
    for name, k in points if every_case else [point for point in points if point[0].startswith(MUST_FAIL)]:
        restart(traced, before)
        status, calls = traced.save("-e", f"inject={name}:error={error}:when={k}")
        assert status in (0, 2, 3), (name, k, status)
        assert number_of(traced.path) == (1 if status else 2), (name, k)
        assert others(traced.path) == [] or name.startswith("unlink"), (name, k, calls)
        assert status == 2 or not name.startswith(MUST_FAIL), (name, k)
        failed.append((name, status))
    errors = sum(status == 2 for _, status in failed)
    print(f"{error} at {len(failed)} system calls: {errors} OSErrors, the old file intact; lost 0, corrupt 0")
    assert sum(name == "fsync" for name, _ in failed) == 2


@linux
@pytest.mark.slow
@pytest.mark.noasan
@pytest.mark.parametrize("call", ["fsync:error=EINVAL:when=2", "chmod:error=EPERM", "link:error=ENOSYS"])
def test_a_system_that_cannot_sync_folders_change_modes_or_link_saves_all_the_same(call, traced):
    status, _ = traced.save("-e", f"inject={call}")
    assert "INJECTED" in traced.log.read_text()
    assert status == 0 and number_of(traced.path) == 2 and others(traced.path) == []


@linux
@pytest.mark.slow
@pytest.mark.noasan
def test_the_file_is_synced_before_it_is_renamed_and_its_folder_behind(traced):
    _, calls = traced.save()
    order = [name for name in calls if name in ("write", "fsync") or name.startswith("rename")]
    while order[0] == "write":
        order.pop(0)
    assert [name.rstrip("at2") for name in order] == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("n, why", [(61, "is none that fastbp writes"), (99, "does not fit into a file of 73")])
def test_a_header_of_another_program_is_told_from_one_that_is_too_long(tmp_path, n, why):
    (tmp_path / "other").write_bytes(n.to_bytes(8, "little") + b" " * 65)
    with pytest.raises(fastbp.FormatError, match=f"a header of {n} bytes {why}"):
        fastbp.load(tmp_path / "other")
