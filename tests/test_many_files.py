"""Files of many networks: the same networks afterwards, and nothing but FormatError from any other file."""

import io
import json
import os
import random
import threading
import time

import numpy as np
import pytest
from conftest import every_case, frozen
from forge import described, forged, mutated, signed, split
from test_files import MINE, RULE, trained
from test_state import FAMILIES, bits, build, data

import fastbp
from fastbp import Adam, FormatError, files
from fastbp.rows import Activation


def dumped(nets):
    stored = io.BytesIO()
    assert fastbp.save_many(nets, stored) is None
    return stored.getvalue()


def loaded(content):
    return fastbp.load_many(io.BytesIO(content), rows=[MINE])


def mixed():
    """Networks of several kinds, in the midst of an epoch, at its end, untrained; kinds do not stand together."""
    nets = []
    for seed in range(3):
        for dtype in ("float16", "float32", "float64"):
            net = trained(dtype=dtype, seed=2**64 - 1 - seed, bias=dtype != "float64")
            nets.append(net)
        for family in FAMILIES:
            net = build("auto", np.float32, family, seed=seed)
            nets += [build(family=family, seed=seed + 7), net]
            net.fit(*data(family), batch_size=4 + seed, epochs=2, optimizer=Adam(lr=0.01), loss="half_squared_error")
    return nets


@pytest.fixture(scope="module")
def nets():
    return mixed()


@pytest.fixture(scope="module")
def content(nets):
    return dumped(nets)


def small(keys="ab"):
    """The bytes of a file of two kinds, by key; short, to be mutated."""
    nets = [fastbp.MLP((1, 2), seed=3), fastbp.MLP((2, 1), seed=2**64 - 1)]
    for net in nets:
        net.train_step(np.ones((4, net.sizes[0])), np.ones((4, net.sizes[1])), optimizer=RULE)
    return dumped(dict(zip(keys, nets)))


# ------------------------------------------------------------------ the same networks


def test_what_is_loaded_is_what_was_saved_in_its_order(nets, content):
    again = loaded(content)
    assert type(again) is list and len(again) == len(nets) == 27
    for net, copy in zip(nets, again):
        assert bits(copy) == bits(net)
        assert (copy.backend, copy.frozen, copy.seed) == (net.backend, net.frozen, net.seed)


def test_runs_go_on_with_the_same_bits(nets, content):
    for net, copy in zip(mixed(), loaded(content)):
        X, y = np.ones((9, net.sizes[0])), np.full((9, net.sizes[-1]), 0.5)
        for one in (net, copy):
            one.fit(X, y, batch_size=4, steps=7, optimizer=RULE)
        assert bits(copy) == bits(net)


def test_loaded_and_saved_again_a_file_has_the_same_bytes(content):
    assert dumped(loaded(content)) == content
    assert dumped(loaded(small())) == small()


def test_a_path_holds_what_a_file_object_gets(content, nets, tmp_path):
    fastbp.save_many(nets, tmp_path / "many")
    assert (tmp_path / "many").read_bytes() == content
    assert [bits(net) for net in fastbp.load_many(str(tmp_path / "many"), rows=[MINE])] == [bits(net) for net in nets]
    assert os.listdir(tmp_path) == ["many"]


def test_one_file_may_stand_behind_another(content):
    stored = io.BytesIO()
    fastbp.save_many([trained()], stored)
    stored.write(content)
    stored.seek(0)
    assert [len(fastbp.load_many(stored, rows=[MINE])) for _ in range(2)] == [1, 27]


KEYS = ["a", "", "1", "\ud800 ä", 1, -3, 2**70, 1.5, float("inf"), -0.0, True,
        np.int8(7), np.uint64(2**63), np.float32(0.1), np.str_("n"), np.bool_(False), np.float64(2.5)]  # fmt: skip


def test_keys_come_back_equal_and_of_pythons_kind():
    keys = [key for key in KEYS if not (isinstance(key, float) and key == 0) and key is not True]
    again = loaded(dumped({key: fastbp.MLP((1, 1), seed=k) for k, key in enumerate(keys)}))
    assert list(again) == keys
    for k, (key, wanted) in enumerate(zip(again, keys)):
        assert type(key) is type(wanted.item() if isinstance(wanted, np.generic) else wanted)
        assert again[wanted].seed == k
    for key in (-0.0, True):
        (only,) = loaded(dumped({key: fastbp.MLP((1, 1))}))
        assert repr(only) == repr(key)


@pytest.mark.parametrize("key", [None, (1, 2), b"a", 1j, np.datetime64("2020-01-01"), np.longdouble(1)], ids=repr)
def test_keys_of_other_kinds_are_refused(key, tmp_path):
    if np.longdouble is np.float64:
        pytest.skip("the two are one here")
    with pytest.raises(TypeError, match="nets: keys in a file are str, int, float or bool, got "):
        fastbp.save_many({"a": fastbp.MLP((1, 1)), key: fastbp.MLP((1, 1))}, tmp_path / "many")
    with pytest.raises(ValueError, match="nets: NaN is no key"):
        fastbp.save_many({np.float32("nan"): fastbp.MLP((1, 1))}, tmp_path / "many")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong, error, message",
    [([], ValueError, "nets holds no network"), ({}, ValueError, "nets holds no network"),
     (fastbp.MLP((1, 1)), TypeError, "nets must be a list of networks"), ("ab", TypeError, "nets must be"),
     ([fastbp.MLP((1, 1)), 3], TypeError, r"nets\[1\] must be an MLP, got 3"),
     ({"a": None}, TypeError, r"nets\['a'\] must be an MLP, got None"),
     ([fastbp.MLP((1, 1), dtype=np.longdouble)], ValueError, "float64 is the widest"),
     ([fastbp.MLP((1, 2, 1), activation=MINE), fastbp.MLP((1, 2, 1), activation=Activation("mine", "z", "g"))],
      ValueError, "two rows of these networks are called 'mine'")],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_and_nothing_is_written(wrong, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fastbp.save_many(wrong, tmp_path / "many")
    assert os.listdir(tmp_path) == []


def test_a_network_that_another_thread_trains_is_named(tmp_path):
    nets = [fastbp.MLP((1, 1)) for _ in range(3)]
    entered, leave = threading.Event(), threading.Event()

    class Wait(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=nets[1].fit, args=([[1]], [[1]]), kwargs={"epochs": 1, "callbacks": [Wait()]})
    thread.start()
    try:
        assert entered.wait(60)
        with pytest.raises(RuntimeError, match=r"^nets\[1\]: another thread is training"):
            fastbp.save_many(nets, tmp_path / "many")
    finally:
        leave.set()
        thread.join()
    assert os.listdir(tmp_path) == []
    fastbp.save_many(nets, tmp_path / "many")


def test_an_error_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "many"
    fastbp.save_many([fastbp.MLP((1, 1), seed=1)], path)
    before = path.read_bytes()

    def fail(fd):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        fastbp.save_many([fastbp.MLP((1, 1), seed=2)] * 3, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["many"]


def test_rows_of_ones_own_are_found_by_name(content):
    with pytest.raises(ValueError, match="rows: .* needs 'mine'") as caught:
        fastbp.load_many(io.BytesIO(content))
    assert not isinstance(caught.value, FormatError)


@pytest.mark.parametrize(
    "value",
    [None, True, -3, 2.5, -np.inf, "word", [1, [2, None]], {"a": {"b": 1}}, np.arange(6, dtype=np.int16).reshape(2, 3),
     {"best": np.inf, "masks": [np.ones(3, bool), np.zeros((0, 4))], "n": np.float64(1.5)}, np.uint64(2**64 - 1), (),
     (1, -1), [0.5, -np.inf], [True, 1]],
    ids=repr,
)  # fmt: skip
def test_whatever_the_training_state_holds_is_saved(value, monkeypatch):
    state = fastbp.training.state.TrainingState
    to_dict, from_dict = state.to_dict, state.from_dict.__func__

    def restored(cls, spec, saved):
        made = from_dict(cls, spec, saved)
        made.more = saved["more"]
        return made

    nets = [trained(), fastbp.MLP((2, 1)), trained(seed=9)]
    older = dumped(nets)
    monkeypatch.setattr(state, "more", value, raising=False)
    monkeypatch.setattr(state, "to_dict", lambda self: to_dict(self) | {"more": self.more})
    monkeypatch.setattr(state, "from_dict", classmethod(restored))
    assert [bits(net) for net in loaded(older)] == [bits(net) for net in nets], "the field is as at the start"
    newer = dumped(nets)
    monkeypatch.setattr(state, "more", "another start")
    for net in loaded(newer):
        assert frozen(net._state.more) == frozen(value)
    monkeypatch.undo()
    with pytest.raises(FormatError, match="more"):  # younger than this fastbp
        loaded(newer)


# ------------------------------------------------------------------ the layout


def test_the_safetensors_package_reads_a_row_for_each_network(content, nets, tmp_path):
    safetensors, numpy = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.numpy")
    (tmp_path / "many").write_bytes(content)
    found = numpy.load_file(tmp_path / "many")
    with safetensors.safe_open(tmp_path / "many", "numpy") as file:
        networks = json.loads(file.metadata()["networks"])
    assert (networks["format"], networks["version"], len(networks["kinds"])) == ("fastbp", files.VERSION, 9)
    assert found["kind"].tolist()[:5] == [0, 1, 2, 3, 4]
    for k, kind in enumerate(networks["kinds"]):
        members = [net for net, of in zip(nets, found["kind"]) if of == k]
        assert len(members) == 3 and tuple(kind["sizes"]) == members[0].sizes
        assert frozen(found[f"kinds.{k}.params"]) == frozen(np.stack([net.flatten() for net in members]))
        seeds = found[f"kinds.{k}.seeds"]
        assert seeds.dtype == np.uint64 and seeds[:, 1].tolist() == [net.seed for net in members]
        assert found[f"kinds.{k}.count"].tolist() == [[net.step] for net in members]
        for name, slot in members[1]._state.slots.items():
            assert frozen(found[f"kinds.{k}.slots.{name}"][1]) == frozen(members[1]._spec.flatten(slot))
    assert "keys" not in found and json.loads(bytes(described_data(small())["keys"])) == ["a", "b"]


def described_data(content):
    entries, _ = described(content, "networks")
    data = split(content)[1]
    return {name: data[slice(*entry["data_offsets"])] for name, entry in entries.items()}


def test_a_small_network_takes_some_hundred_bytes():
    nets = [fastbp.MLP((2, 3, 1), seed=seed) for seed in range(2000)]
    assert len(dumped(nets)) < 2000 * 180
    for net in nets[:1000]:
        net.train_step([[1, 2]], [[3]])
    assert len(dumped(nets[:1000])) < 1000 * 300


def test_many_kinds_have_room():
    nets = [fastbp.MLP((1, width, 1), seed=width) for width in range(1, 601)]
    assert [bits(net) for net in loaded(dumped(nets))] == [bits(net) for net in nets]


# ------------------------------------------------------------------ damage and forgery


def refused(content, match=None):
    with pytest.raises(FormatError, match=match):
        loaded(content)


def test_files_of_one_and_of_many_say_who_reads_them(content, tmp_path):
    (tmp_path / "many").write_bytes(content)
    with pytest.raises(FormatError, match="it holds many networks: fastbp.load_many reads it"):
        fastbp.load(tmp_path / "many")
    trained().save(tmp_path / "one")
    with pytest.raises(FormatError, match="it holds one network: fastbp.load reads it"):
        fastbp.load_many(tmp_path / "one", rows=[MINE])


def test_every_cut_and_every_bit_flipped_is_noticed():
    whole = small()
    for end in range(0, len(whole), 1 if every_case else 3):
        refused(whole[:end])
    for at in range(0, len(whole) * 8, 1 if every_case else 7):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        refused(bytes(flipped))


def column(name, values, dtype=None):
    """A forgery: other numbers in a tensor of the same size."""

    def make(content):
        entries, _ = described(content, "networks")
        header, data = split(content)
        begin, end = entries[name]["data_offsets"]
        new = np.asarray(values, dtype).tobytes()
        assert len(new) == end - begin
        return signed(header, data[:begin] + new + data[end:])

    return make


def edited(change):
    return lambda content: forged(content, change, what="networks")


def kind(k, **fields):
    return edited(lambda networks, entries: networks["kinds"][k].update(fields))


def reshaped(name, shape=None, dtype=None):
    def change(networks, entries):
        entries[name]["shape"] = shape or entries[name]["shape"]
        entries[name]["dtype"] = dtype or entries[name]["dtype"]

    return edited(change)


def written_by(word):
    return edited(lambda networks, entries: networks.update(fastbp=word))


def no_networks(networks, entries):
    networks["kinds"].append(networks["kinds"][0] | {"sizes": [10**5, 10**5]})


def huge(networks, entries):
    for name in entries:
        if name.startswith("kinds.0."):
            entries[name]["shape"][0] = 0


FORGED = {
    "kinds from 1": column("kind", [1, 0]),
    "a kind that is not there": column("kind", [0, 2**62]),
    "a kind below 0": column("kind", [0, -1]),
    "a kind without networks": column("kind", [0, 0]),
    "kinds without sign": reshaped("kind", dtype="U64"),
    "kinds in two axes": reshaped("kind", [2, 1]),
    "keys that are equal": column("keys", b'["a","a"]', "S9"),
    "one key": column("keys", b'["a,b,c"]', "S9"),
    "no list of keys": column("keys", b'{"a":"b"}', "S9"),
    "a key that is no JSON": column("keys", b'["a",b"]]', "S9"),
    "keys of other kinds": column("keys", b'["a",[1]]', "S9"),
    "keys with a space": column("keys", b'["", "b"]', "S9"),
    "a key written in another way": column("keys", b'[15e0,22]', "S9"),
    "no keys at all": column("keys", b"null     ", "S9"),
    "NaN as a key": column("keys", b'[NaN,123]', "S9"),
    "keys as text of signs": reshaped("keys", dtype="I8"),
    "a batch of no rows": column("kinds.0.counted", [[1, 0, 0]], np.uint64),
    "a place before the first row": column("kinds.0.place", [[0, 2**64 - 1]], np.uint64),
    "more steps than there are": column("kinds.0.count", [[2**64 - 1]], np.uint64),
    "a scale that is not finite": column("kinds.0.plateau.scale", [np.inf]),
    "a scale below 0": column("kinds.0.plateau.scale", [-1.0]),
    "seeds with signs": reshaped("kinds.0.seeds", dtype="I64"),
    "seeds as floats": reshaped("kinds.0.seeds", dtype="F64"),
    "a best loss that is an integer": reshaped("kinds.0.plateau.best", dtype="U64"),
    "seeds in one axis": reshaped("kinds.0.seeds", [2]),
    "seeds in three axes": reshaped("kinds.0.seeds", [1, 1, 2]),
    "a count without axes": reshaped("kinds.0.count", [1]),
    "parameters of another shape": reshaped("kinds.0.params", [1, 2, 2]),
    "parameters of two networks": reshaped("kinds.0.params", [2, 2]),
    "parameters as integers": reshaped("kinds.0.params", dtype="I32"),
    "other sizes": kind(0, sizes=[2, 1]),
    "sizes of more parameters": kind(0, sizes=[10**6, 10**6]),
    "no sizes": kind(0, sizes=[]),
    "sizes that are no numbers": kind(0, sizes=[1, True]),
    "an activation that nobody knows": kind(0, activations=["relux"]),
    "an activation without a name": kind(0, activations=[3]),
    "a dtype that NumPy warns of": kind(0, dtype="a"),
    "another backend": kind(0, backend="cuda"),
    "frozen layers of another form": kind(0, trains=[[True, 1]]),
    "dropout as it is not written": kind(0, dropout=[0.0]),
    "a state without fields": kind(0, training={}),
    "a state with a field more": edited(lambda networks, entries: networks["kinds"][0]["training"].update(more=1)),
    "a mark that nobody knows": edited(
        lambda networks, entries: networks["kinds"][0]["training"].update(seeds={"": "number"})
    ),
    "a mark without a tensor": edited(
        lambda networks, entries: networks["kinds"][0]["training"].update(family={"": "tensor"})
    ),
    "a mark that is no text": edited(
        lambda networks, entries: networks["kinds"][0]["training"].update(family={"": [1]})
    ),
    "a tensor that nobody asks for": edited(
        lambda networks, entries: entries.update(more={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})
    ),
    "a field more of a kind": kind(0, more=1),
    "a field less of a kind": edited(lambda networks, entries: networks["kinds"][0].pop("rows") and None),
    "a kind that is no dict": edited(lambda networks, entries: networks["kinds"].append(3)),
    "one kind too many": edited(no_networks),
    "kinds of no networks": edited(huge),
    "two kinds that are one": edited(lambda networks, entries: networks["kinds"].reverse()),
    "another version": edited(lambda networks, entries: networks.update(version=2)),
    "another format": edited(lambda networks, entries: networks.update(format="fastbp many")),
    "a version that is no integer": edited(lambda networks, entries: networks.update(version=1.0)),
    "a field more": edited(lambda networks, entries: networks.update(more=1)),
    "no networks": edited(lambda networks, entries: "null"),
    "deep nesting": edited(lambda networks, entries: "[" * 100_000),
}  # fmt: skip


SAID = {  # what some of the errors say
    "a kind that is not there": "of which kinds its networks are",
    "a kind below 0": "of which kinds its networks are",
    "seeds in one axis": "kinds.0.seeds has another shape",
    "parameters of two networks": "kinds.0.params has another shape",
    "a dtype that NumPy warns of": "there is no dtype 'a'",
    "keys that are equal": "its keys are not those of its networks",
    "another version": "it has version 2 of the format, this fastbp reads version 1",
}


@pytest.mark.parametrize("how", FORGED)
def test_forged_files_with_the_right_digest_are_refused(how):
    whole = small()
    made = FORGED[how](whole)
    assert made != whole
    began = time.process_time()
    refused(made, SAID.get(how))
    assert time.process_time() - began < 0.5


def test_a_forgery_that_changes_nothing_but_numbers_is_a_network():
    """So what is refused above is not refused for how it is made."""
    whole = small()
    assert forged(whole, what="networks") == whole
    again = loaded(column("kinds.0.seeds", [[5, 6]], np.uint64)(whole))
    assert again["a"].seed == 6
    assert list(loaded(column("keys", b'["c",123]', "S9")(whole))) == ["c", 123]


def test_mutated_files_are_refused_or_are_networks():
    rng, whole = random.Random(0), small()
    taken = 0
    for k in range(20_000 if every_case else 2000):
        made = mutated(rng, whole)
        if k % 2:
            header, data = split(made)
            made = signed(header, data)
        try:
            again = loaded(made)
        except FormatError:
            continue
        taken += 1  # other numbers of the same networks, or another word for what wrote them
        word = described(made, "networks")[1]["fastbp"]
        assert written_by(word)(dumped(again)) == made
    assert 0 < taken < (k + 1) / 2


def test_memory_grows_with_the_file_whatever_it_claims():
    import tracemalloc

    whole = small()

    def claim(networks, entries):
        entries["kinds.0.params"]["shape"] = [1, 2**40]

    for made in (forged(whole, claim, what="networks"), whole[:8] + b"x" * 100, (2**25).to_bytes(8, "little")):
        tracemalloc.start()
        try:
            refused(made)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
