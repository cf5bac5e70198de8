"""predict_many has the bits of `predict`; an Ensemble is the mean of its networks."""

import io
import re
import sys
import threading

import numpy as np
import pytest
from conftest import frozen
from test_state import FAMILIES, bits, build, data

import fastbp
from fastbp.many import ensemble, predict

RNG = np.random.default_rng(3)
X = RNG.normal(size=(700, 5))


def same(found, wanted):
    return [frozen(array) for array in found] == [frozen(array) for array in wanted]


# ------------------------------------------------------------------ predict_many


@pytest.mark.parametrize("n", [0, 1, 7, 256, 700])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_predict_as_each_does(backend, dtype, n):
    nets = [fastbp.MLP((5, width, 2), activation=activation, dtype=dtype, seed=seed, backend=backend)
            for width in (3, 17, 40) for activation in ("tanh", "relu") for seed in range(3)]  # fmt: skip
    for rows in (X[:n], X[:n].astype(np.float32), (X[:n] * 9).astype(np.int16), np.asfortranarray(X[:n])):
        found = fastbp.predict_many(nets[::-1], rows)
        assert found.shape == (18, n, 2)
        assert same(found, [net.predict(rows) for net in nets[::-1]])
        assert same(fastbp.predict_many(dict(enumerate(nets)), rows), [net.predict(rows) for net in nets])


def test_outputs_that_differ_are_a_list():
    nets = [fastbp.MLP((5, 3, 2), seed=0), fastbp.MLP((5, 3, 1), seed=1), fastbp.MLP((5, 2), dtype="float64", seed=2)]
    for some in (nets, nets[::2], nets[:2]):
        found = fastbp.predict_many(some, X)
        assert type(found) is list and same(found, [net.predict(X) for net in some])
    assert fastbp.predict_many(nets[:1], X).shape == (1, 700, 2)


def test_large_networks_and_rows_of_a_csr_matrix_too(kernels):
    sparse = pytest.importorskip("scipy.sparse")
    nets = [fastbp.MLP((5, 300, 300, 1), seed=seed, backend=kernels) for seed in range(3)]
    assert nets[0].params.nbytes > predict._COPIED_BYTES
    rows = np.where(X > 0, X, 0)
    for some in (nets, [build(seed=k, backend=kernels) for k in range(3)]):
        assert same(fastbp.predict_many(some, sparse.csr_matrix(rows)), [net.predict(rows) for net in some])


def test_numbers_beyond_the_dtype_are_cast_without_a_word():
    nets = [fastbp.MLP((5, 3, 2), seed=0)] * 2
    rows = np.where(X > 1, 1e300, X)
    assert same(fastbp.predict_many(nets, rows), [nets[0].predict(rows)] * 2)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_no_bit(n_threads, monkeypatch, kernels):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    nets = [fastbp.MLP((5, width, 2), seed=width, backend=kernels) for width in (3, 60, 130, 330) for _ in range(5)]
    wanted, others = [net.predict(X) for net in nets], set()
    monkeypatch.setattr(predict, "_WORTH_THREADS", 0)
    do = predict._Desk.do
    monkeypatch.setattr(predict._Desk, "do", lambda self, job: others.add(threading.get_ident()) or do(self, job))
    assert same(fastbp.predict_many(nets, X, n_threads=n_threads), wanted)
    assert (others == {threading.get_ident()}) == (n_threads == 1)
    others.clear()
    fastbp.predict_many([fastbp.MLP((5, 2, 1))] * 9, X, n_threads=n_threads)
    assert others == {threading.get_ident()}, "threads do not pay"


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")

    def fail(self, job):
        raise MemoryError("none left")

    monkeypatch.setattr(predict, "_WORTH_THREADS", 0)
    monkeypatch.setattr(predict._Desk, "do", fail)
    before = threading.active_count()
    with pytest.raises(MemoryError, match="none left"):
        fastbp.predict_many([fastbp.MLP((5, 330, 1))] * 9, X, n_threads=3)
    assert threading.active_count() == before


def test_nothing_of_the_networks_changes_and_small_ones_keep_no_memory():
    nets = [build(seed=k) for k in range(3)]
    before = [bits(net) for net in nets]
    fastbp.predict_many(nets, X)
    assert [bits(net) for net in nets] == before
    assert not any(net._programs._idle for net in nets)
    count = sys.getrefcount(X)
    fastbp.predict_many(nets, X)
    assert sys.getrefcount(X) == count


KEYS = {
    "text": (["b", "a", "c"], np.array(["b", "a", "c"])[RNG.integers(0, 3, 700)]),
    "integers": ([5, -1, 7], np.array([5, -1, 7])[RNG.integers(0, 3, 700)]),
    "floats": ([0.5, -0.1, 7.0], np.array([0.5, -0.1, 7.0])[RNG.integers(0, 3, 700)]),
    "objects": (["b", "a", "c"], np.array(["b", "a", "c"], object)[RNG.integers(0, 3, 700)]),
    "a list": ([True, False, 2], (RNG.integers(0, 3, 700)).tolist()),
    "dates": (list(np.array(["2020-01-02", "2020-01-01", "2020-02-01"], "M8[D]")),
              np.array(["2020-01-02", "2020-01-01", "2020-02-01"], "M8[D]")[RNG.integers(0, 3, 700)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_by_key_each_row_goes_through_its_network(kind, kernels):
    keys, by = KEYS[kind]
    nets = {key: fastbp.MLP((5, 3 + k, 2), seed=k, backend=kernels) for k, key in enumerate(keys)}
    of_rows, found = np.asarray(by), fastbp.predict_many(nets, X, by=by)
    assert found.shape == (700, 2)
    for key, net in nets.items():
        assert frozen(found[of_rows == key]) == frozen(net.predict(X[of_rows == key]))
    in_order = [nets[key] for key in sorted(keys)]
    assert frozen(fastbp.predict_many(in_order, X, by=by)) == frozen(found)
    some = of_rows != keys[0]
    assert frozen(fastbp.predict_many(nets, X[some], by=of_rows[some])) == frozen(found[some])
    assert fastbp.predict_many(nets, X[:0], by=of_rows[:0]).shape == (0, 2)
    assert frozen(fastbp.predict_many({**nets, "another": nets[keys[0]]}, X, by=by)) == frozen(found)


def test_by_key_of_a_table_and_of_mixed_dtypes():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcde")).assign(store=KEYS["text"][1])
    nets = {"a": fastbp.MLP((5, 1), seed=0), "b": fastbp.MLP((5, 1), dtype="float64", seed=1),
            "c": fastbp.MLP((5, 1), seed=2)}  # fmt: skip
    found = fastbp.predict_many(nets, frame[list("abcde")], by=frame["store"])
    assert found.dtype == np.float64
    for key, net in nets.items():
        assert (found[frame["store"] == key] == net.predict(X[frame["store"] == key])).all()


NETS = {"a": fastbp.MLP((5, 1), seed=0), "b": fastbp.MLP((5, 1), seed=1)}
WRONG = {
    "no network": (([], X), {}, ValueError, "nets holds no network"),
    "one network": ((NETS["a"], X), {}, TypeError, "nets must be a list of networks, or a dict of them by key"),
    "something else": (([NETS["a"], "b"], X), {}, TypeError, "nets[1] must be an MLP, got 'b'"),
    "other columns": (([NETS["a"], fastbp.MLP((4, 1))], X), {}, ValueError, "X has 5 column(s), nets[1] has 4"),
    "wrong columns": ((NETS, X[:, 1:]), {}, ValueError, "X has 4 column(s), the network has 5"),
    "threads": ((NETS, X), {"n_threads": 0}, ValueError, "n_threads must be at least 1, got 0"),
    "keys for other rows": ((NETS, X), {"by": ["a"]}, ValueError, "by must hold a key for each of the 700 rows of "
                                                                  "X, got shape (1,)"),
    "a name": ((NETS, X), {"by": "store"}, TypeError,
               "by must be the column itself, such as df['store'], not its name"),
    "an unseen key": ((NETS, X[:3]), {"by": ["a", "x", "y"]}, ValueError, "by holds the key 'x', for which nets has no "
                                                                          "network, at row 1"),
    "NaN": ((NETS, X[:3]), {"by": [1.0, np.nan, 2.0]}, ValueError, "by has no key at row 1, got np.float64(nan)"),
    "None": ((NETS, X[:3]), {"by": ["a", "b", None]}, ValueError, "by has no key at row 2, got None"),
    "mixed keys": ((NETS, X[:2]), {"by": np.array(["a", 1], object)}, TypeError, "by must hold keys that can be "),
    "fewer keys than networks": ((list(NETS.values()), X[:2]), {"by": ["a", "a"]}, ValueError, "by holds 1 different "
                                 "keys for 2 network(s); nets must have one for each key"),
    "outputs that differ": ((NETS | {"c": fastbp.MLP((5, 2))}, X[:2]), {"by": ["a", "a"]}, ValueError, "with `by` all "
                            "networks need the same number of outputs; nets['b'] has 1, nets['c'] has 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    arguments, options, error, message = WRONG[what]
    with pytest.raises(error, match=re.escape(message).replace(r"np\.float64\(nan\)", r"(np\.float64\()?nan\)?")):
        fastbp.predict_many(*arguments, **options)


# ------------------------------------------------------------------ Ensemble


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(ensemble, "_BLOCK_BYTES", 1)
    calls = []
    monkeypatch.setattr(ensemble, "forward", lambda work, n: calls.append(work) or predict.forward(work, n))
    yield
    assert len(calls) > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ensemble_is_the_mean_of_its_networks(backend, dtype, family, small_blocks):
    nets = [build(backend, dtype, family, seed=seed) for seed in range(5)]
    rows = np.tile(data(family)[0], (20, 1))
    outputs = np.stack([net.predict(rows) for net in nets]).astype(np.float64)
    together = fastbp.Ensemble(nets)
    mean, std = together.predict(rows, return_std=True)
    assert mean.dtype == std.dtype == dtype
    np.testing.assert_allclose(mean, outputs.mean(axis=0), rtol=np.finfo(dtype).eps, atol=0)
    np.testing.assert_allclose(std, outputs.std(axis=0), rtol=8 * np.finfo(dtype).eps, atol=1e-15)
    assert frozen(together.predict(rows)) == frozen(mean)
    levels = [0.0, 0.1, 0.5, 1.0]
    found = together.quantiles(rows, levels)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.quantile(outputs, levels, axis=0), rtol=8 * np.finfo(dtype).eps, atol=1e-6)
    assert frozen(found[0]) == frozen(outputs.min(axis=0).astype(dtype))
    assert frozen(together.quantiles(rows, 0.1)) == frozen(found[1])


def test_dtypes_that_differ_and_one_member_alone():
    nets = [fastbp.MLP((5, 3, 2), seed=0), fastbp.MLP((5, 9, 2), dtype="float64", seed=1)]
    mean = fastbp.Ensemble({"a": nets[0], "b": nets[1]}).predict(X)
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, (nets[0].predict(X).astype(float) + nets[1].predict(X)) / 2, rtol=1e-15)
    alone, std = fastbp.Ensemble(nets[:1]).predict(X, return_std=True)
    assert frozen(alone) == frozen(nets[0].predict(X)) and not std.any()
    assert fastbp.Ensemble(nets).predict(X[:0]).shape == (0, 2)
    assert fastbp.Ensemble(nets).quantiles(X[:0], [0.5]).shape == (1, 0, 2)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_classes_average_probabilities(loss, dtype):
    nets = [fastbp.MLP((5, 8, 3), seed=seed, dtype=dtype) for seed in range(4)]
    y = (X[:, :3] == X[:, :3].max(axis=1, keepdims=True)).astype(float)
    for net in nets:
        net.fit(X, y, loss=loss, epochs=1)
    together = fastbp.Ensemble(nets)
    wanted = np.mean([net.predict_proba(X).astype(float) for net in nets], axis=0)
    found = together.predict_proba(X)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=4 * np.finfo(dtype).eps)
    other = {"softmax_cross_entropy": "sigmoid", "binary_cross_entropy": "softmax"}[loss]
    wanted = np.mean([net.predict_proba(X, link=other).astype(float) for net in nets], axis=0)
    np.testing.assert_allclose(together.predict_proba(X, link=other), wanted, rtol=4 * np.finfo(dtype).eps)
    logits = np.mean([net.predict(X).astype(float) for net in nets], axis=0)
    np.testing.assert_allclose(together.predict(X), logits, rtol=1e-5, atol=1e-6)


def test_probabilities_that_are_none_are_refused():
    nets = [fastbp.MLP((5, 3), seed=seed) for seed in range(2)]
    with pytest.raises(RuntimeError, match="were not trained from logits of probabilities; say link="):
        fastbp.Ensemble(nets).predict_proba(X)
    nets[0].fit(X, X[:, :3] > 0, loss="binary_cross_entropy", epochs=1)
    with pytest.raises(RuntimeError, match="predict_proba: the members differ in the loss"):
        fastbp.Ensemble(nets).predict_proba(X)
    own = fastbp.Ensemble([nets[0], fastbp.MLP((5, 3), output_activation="sigmoid")])
    with pytest.raises(ValueError, match=r"output_activation='identity'; nets\[1\] has 'sigmoid'"):
        own.predict_proba(X, link="sigmoid")
    with pytest.raises(ValueError, match="link: unknown name 'softmx'"):
        own.predict_proba(X, link="softmx")


@pytest.mark.parametrize(
    "other, message",
    [(fastbp.MLP((4, 2)), r"same number of features; nets\[0\] has 5, nets\[1\] has 4"),
     (fastbp.MLP((5, 1)), r"same number of outputs; nets\[0\] has 2, nets\[1\] has 1")],
)  # fmt: skip
def test_members_that_do_not_fit_are_named(other, message):
    with pytest.raises(ValueError, match=message):
        fastbp.Ensemble([fastbp.MLP((5, 3, 2)), other])
    with pytest.raises(ValueError, match="nets holds no network"):
        fastbp.Ensemble([])
    stored = io.BytesIO()
    fastbp.save_many([fastbp.MLP((5, 3, 2)), other], stored)
    with pytest.raises(ValueError, match=message):
        fastbp.Ensemble.load(io.BytesIO(stored.getvalue()))


def test_arguments_of_an_ensemble_are_checked():
    together = fastbp.Ensemble([fastbp.MLP((5, 3, 2))])
    for q, error, message in (
        (1.5, ValueError, "q must be from 0 to 1, got 1.5"), ([0.5, np.nan], ValueError, "q must be from 0 to 1"),
        ([[0.5]], ValueError, r"q must be a number or 1-D, got shape \(1, 1\)"), ("a", TypeError, "q must"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            together.quantiles(X, q)
    with pytest.raises(TypeError, match="return_std must be"):
        together.predict(X, return_std=2)
    with pytest.raises(ValueError, match=r"X has 4 column\(s\)"):
        together.predict(X[:, 1:])
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        together.predict(X, n_threads=0)
    assert repr(together) == "Ensemble(1 networks, features=5, outputs=2)" and len(together) == 1


def test_an_ensemble_is_saved_and_loaded(tmp_path):
    nets = [fastbp.MLP((5, 3 + seed, 2), seed=seed) for seed in range(3)]
    for net in nets:
        net.fit(X, X[:, :2] > 0, loss="binary_cross_entropy", epochs=1)
    fastbp.Ensemble(nets).save(tmp_path / "together")
    again = fastbp.Ensemble.load(tmp_path / "together")
    assert type(again) is fastbp.Ensemble and [bits(net) for net in again.nets] == [bits(net) for net in nets]
    assert frozen(again.predict_proba(X)) == frozen(fastbp.Ensemble(nets).predict_proba(X))
    fastbp.save_many(dict(zip("abc", nets)), tmp_path / "by key")
    assert len(fastbp.Ensemble.load(tmp_path / "by key")) == 3
