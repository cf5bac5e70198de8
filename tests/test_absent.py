"""Where the compiled module is not there: what is said, when, and why so."""

import os
import subprocess
import sys
import textwrap
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastbp
from fastbp import backends
from fastbp.backends.absent import absence

IMPORTED_FROM = str(Path(fastbp.__file__).resolve().parents[1])
OTHER_PYTHON = "_engine.cpython-39-x86_64-linux-gnu.so"


@pytest.fixture(autouse=True)
def no_other(monkeypatch):
    """The path without the fastbp that is tested."""
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not os.path.exists(os.path.join(one, "fastbp"))])


def make(root, *files):
    """A folder with a package and other files, all empty; gives that of the package."""
    for name in ("fastbp/__init__.py", *files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root / "fastbp")


def metadata(folder, pure, editable=None):
    """What an installation of a wheel leaves beside the package."""
    info = folder / "fastbp-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastbp\nVersion: 0.1.0\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\n")
    if editable:
        (info / "direct_url.json").write_text(f'{{"url": "{editable.as_uri()}", "dir_info": {{"editable": true}}}}')


def told(package, *words):
    why = absence(package)
    text = str(why)
    assert text.startswith("the compiled module fastbp._engine is not there: ") and "some tens of times as long" in text
    assert [word for word in words if word not in text] == [], text
    return why.asked_for


def test_sources_that_were_not_built_are_told_to_be_built(tmp_path):
    package = make(tmp_path / "a b", "src/engine.pyx")
    assert not told(package, f"sources in {tmp_path}/a b are used, and were not built", "pip install -e", "make demo")


def test_a_build_that_has_failed_is_told_to_be_read(tmp_path):
    package = make(tmp_path, "src/engine.pyx", "build/cython/engine.cpp")
    assert not told(package, "build was begun and not finished", f"pip install -e {tmp_path}, and read what it prints")


def test_sources_that_hide_an_installation_are_told_to_be_left(tmp_path, monkeypatch):
    package = make(tmp_path / "clone", "src/engine.pyx")
    installed = make(tmp_path / "site", f"fastbp/_engine{EXTENSION_SUFFIXES[0]}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert not told(package, f"not the fastbp that is installed in {installed}", "run the program from another folder")


@pytest.mark.parametrize("files", [(), ("src/engine.pyx",)], ids=["installed", "a clone"])
def test_a_module_of_another_python_is_named(tmp_path, files):
    package = make(tmp_path, f"fastbp/{OTHER_PYTHON}", *files)
    ours = f"_engine{EXTENSION_SUFFIXES[0]}"
    assert not told(package, f"{OTHER_PYTHON} in {package} belongs to another Python, and this one looks for {ours}")


def test_an_installation_without_it_is_told_to_be_made_again(tmp_path):
    assert not told(make(tmp_path), f"the installation in {tmp_path}/fastbp is without it", "pip install --force-rein")


def test_a_packed_program_is_told_of_the_packer(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not told(str(tmp_path / "packed" / "fastbp"), "it was not packed with this program", "hidden import")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_build_without_the_extension_is_known_by_its_wheel(tmp_path, monkeypatch, frozen):
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    package = make(tmp_path / "site")
    metadata(tmp_path / "site", pure=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert told(package, "installed with FASTBP_NO_EXTENSION", "without that, ")


def test_an_editable_build_without_the_extension_is_known_by_its_wheel(tmp_path, monkeypatch):
    clone = tmp_path / "a clone"
    package = make(clone, "src/engine.pyx")
    metadata(tmp_path / "site", pure=True, editable=clone)
    (clone / "fastbp.egg-info").mkdir()  # which setuptools leaves there, and the path has first
    (clone / "fastbp.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: fastbp\nVersion: 0.1.0\n")
    for folder in (tmp_path / "site", clone):
        monkeypatch.syspath_prepend(str(folder))
    assert told(package, "installed with FASTBP_NO_EXTENSION")
    assert not told(make(tmp_path / "another", "src/engine.pyx"), "were not built")


def test_a_wheel_of_this_platform_is_not_taken_for_one_without_the_extension(tmp_path, monkeypatch):
    package = make(tmp_path / "site")
    metadata(tmp_path / "site", pure=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert not told(package, "is without it")


# ------------------------------------------------------------------ when it is said

CALLS = """
import sys, threading, warnings
sys.modules["fastbp._engine"] = None  # as if it were not there
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastbp
    X, y = np.ones((4, 2)), np.ones((4, 1))
    net = fastbp.MLP((2, 3, 1), seed=0{own})
    print("made", len(caught))
{calls}
for warning in caught:
    print(warning.category.__name__, warning.filename, warning.lineno, warning.message)
"""
FIT = 'net.fit(X, y, optimizer="sgd", epochs=1)'


def says(calls, own="", before="", **environment):
    """What a process prints in which the compiled module cannot be imported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTBP_"))}
    script = before + CALLS.format(own=own, calls=textwrap.indent(textwrap.dedent(calls), " " * 4))
    done = subprocess.run([sys.executable, "-c", script], env=inherited | {"PYTHONPATH": IMPORTED_FROM} | environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, *lines = done.stdout.splitlines()
    assert made == "made 0"  # neither the import nor a network says anything
    return lines


ONCE = {
    "fit": FIT, "twice": f"{FIT}; {FIT}", "predict": "net.predict(X)", "forward": "net.forward(X)",
    "train_step": 'net.train_step(X, y, optimizer="sgd")', "evaluate": 'net.evaluate(X, y, loss="mse")',
    "float64": "fastbp.MLP((2, 1), dtype=np.float64).predict(X); fastbp.MLP((2, 1)).predict(X)",
    "ops": "fastbp.ops.linear(X, np.ones((2, 3)))", "explain": 'net.explain(4, optimizer="sgd")',
    "auto asked for": "fastbp.set_backend('auto'); net.predict(X)",
    "threads": "ts = [threading.Thread(target=net.predict, args=(X,)) for _ in range(16)]; "
               "[t.start() for t in ts]; [t.join() for t in ts]",
}  # fmt: skip


@pytest.mark.parametrize("calls", ONCE.values(), ids=ONCE)
def test_the_first_call_that_numpy_serves_says_so_once_at_the_callers_line(calls):
    lines = [line for line in says(calls) if line.startswith("RuntimeWarning")]
    (line,) = lines
    place = "threading" if "Thread" in calls else "<string> "
    assert place in line and "fastbp works by NumPy alone: the compiled module fastbp._engine is not there: " in line
    assert line.endswith("fastbp.set_backend('reference') takes NumPy without a warning")


SILENT = {  # what is asked for, or served by NumPy alone
    "backend=": (FIT, {"own": ", backend='reference'"}),
    "a context": (f"with fastbp.backend('reference'): {FIT}", {}),
    "set_backend": (f"fastbp.set_backend('reference'); {FIT}", {}),
    "the environment": (FIT, {"FASTBP_BACKEND": "reference"}),
    "float16": ("fastbp.MLP((2, 1), dtype=np.float16).predict(X)", {}),
    "longdouble": ("fastbp.MLP((2, 1), dtype=np.longdouble).predict(X)", {}),
    "own rows without Numba": (
        "own = fastbp.Activation('own', forward='z * z'); fastbp.MLP((2, 3, 1), activation=own).predict(X)",
        {"before": "import sys, importlib.util as u; f = u.find_spec\n"
                   "u.find_spec = lambda name, *a: None if name == 'numba' else f(name, *a)\n"}),
    "a build without it": (
        f"from fastbp.backends import absent; absent._built_without = lambda package: True; {FIT}", {}),
    "a look": ("fastbp.backends.config.config()", {}),
}  # fmt: skip


@pytest.mark.parametrize("calls, more", SILENT.values(), ids=SILENT)
def test_nothing_is_said_where_numpy_was_asked_for_or_is_all_that_serves(calls, more):
    assert says(calls, **more) == []


def test_a_warning_made_an_error_comes_before_any_work():
    lines = says(
        """
        warnings.simplefilter("error")
        before = net.flatten().tobytes()
        for call in range(2):
            try:
                print(net.fit(X, y, optimizer="sgd", epochs=1).n_steps, net.step)
            except RuntimeWarning as error:
                print("error", net.step, net.flatten().tobytes() == before, str(error)[:29])
    """
    )
    assert lines == ["error 0 True fastbp works by NumPy alone: ", "1 1"]


def test_show_config_says_the_same(capsys, monkeypatch):
    monkeypatch.setattr(backends, "engine", lambda: None)
    fastbp.show_config()
    out = capsys.readouterr().out
    assert f"backend cython  {absence()}\n" in out and "backend used  reference\n" in out
    with pytest.raises(RuntimeError, match=r"backend 'cython': the compiled module fastbp\._engine is not there: "):
        fastbp.MLP((2, 1), backend="cython").predict([[1, 2]])
