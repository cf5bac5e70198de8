"""Accuracy of EXP EXPM1 LOG LOG1P TANH and sigmoid: tests/ulp/ulp.cpp, built for each ISA of this machine.

The program judges itself in wider arithmetic, here in brief (`make ulp`: every float). mpmath judges it once more, on
dense grids and on every point where a word changes branch.
"""

import functools
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import VECTOR_BYTES, every_case

ROOT = Path(__file__).parents[1]
DTYPES, WORDS = ("float", "double"), ("EXP", "EXPM1", "LOG", "LOG1P", "TANH", "SIGMOID")
ALLOWED_ULP = 4

pytestmark = pytest.mark.noasan


def compile_flags():
    """The flags of the extension."""
    spec = importlib.util.spec_from_file_location("fastbp_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup.compile_flags()


def compiler():
    words = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("c++") or "clang++"]
    return words, "clang" in Path(words[0]).name or platform.system() == "Darwin"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The program of each ISA, compiled when first asked for."""
    folder = tmp_path_factory.mktemp("ulp")

    @functools.cache
    def program(isa):
        command, is_clang = compiler()
        quad = [] if is_clang or platform.machine() != "x86_64" else ["-lquadmath"]
        out = folder / isa
        subprocess.run(
            [*command, *compile_flags(), f"-DFBP_VECTOR_BYTES={VECTOR_BYTES[isa]}", str(ROOT / "tests/ulp/ulp.cpp"),
             "-o", str(out), *quad],
            check=True, timeout=300,
        )  # fmt: skip
        return out

    return program


def test_the_words_are_within_4_ulp(isa, programs):
    done = subprocess.run([programs(isa), "quick"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {tuple(line.split()[:2]) for line in done.stdout.splitlines() if line.endswith(" PASS")}
    assert passed == {(word, dtype) for word in WORDS for dtype in DTYPES}, done.stdout


# ------------------------------------------------------------------ mpmath


def grid(dtype):
    """Where the words bend, where they saturate, and all magnitudes."""
    n, big = (50_000 if every_case else 2_000), 110 if dtype == np.float32 else 760
    size = np.finfo(dtype)
    exponents = np.linspace(size.minexp - size.nmant, size.maxexp - 1e-6, n)
    magnitudes = np.exp2(exponents.astype(np.longdouble))
    return np.concatenate([np.linspace(-3, 3, n), np.linspace(-big, big, n), magnitudes, -magnitudes]).astype(dtype)


def exact(word, x, limit):
    """The word's value at a float x as (high, low, exponent): (high + low) * 2**exponent, half <= |high| < 1."""
    from mpmath import mp

    if (word == "LOG" and x < 0) or (word == "LOG1P" and x < -1):
        return np.nan, 0.0, 0
    if (word == "LOG" and x == 0) or (word == "LOG1P" and x == -1):
        return -np.inf, 0.0, 0
    if abs(x) > 1e4 and word not in ("LOG", "LOG1P"):  # long saturated; mpmath would write exp(1e300) out
        x = 1e4 if x > 0 else -1e4
    x = mp.mpf(x)
    value = 1 / (1 + mp.exp(-x)) if word == "SIGMOID" else getattr(mp, word.lower())(x)
    if value >= limit:
        return np.inf, 0.0, 0
    mantissa, exponent = mp.frexp(value)
    high = float(mantissa)
    return high, float(mantissa - high), int(exponent)


@functools.cache
def all_exact(word, x_bytes, dtype):
    """`exact` over an array, for all ISAs; beyond `limit` a number rounds to infinity."""
    from mpmath import mp

    mp.prec = 140
    size = np.finfo(dtype)
    limit = mp.ldexp(1 - mp.ldexp(1, -size.nmant - 2), size.maxexp)
    return [np.array(part) for part in zip(*(exact(word, x, limit) for x in np.frombuffer(x_bytes, dtype).tolist()))]


def ulp_errors(word, x, y):
    """Distances in units of the spacing at the exact value; infinite where NaN or infinity is wrong or missing."""
    size = np.finfo(x.dtype)
    high, low, exponent = all_exact(word, x.tobytes(), x.dtype)
    spacing = np.maximum(exponent, size.minexp + 1) - size.nmant - 1
    with np.errstate(invalid="ignore", over="ignore"):
        errors = abs((np.ldexp(y.astype(float), -exponent) - high) - low) / np.ldexp(1.0, spacing - exponent)
    same = (y == high) | (np.isnan(y) & np.isnan(high))
    return np.where(np.isfinite(high) & np.isfinite(y), errors, np.where(same, 0, np.inf))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("word", WORDS)
def test_mpmath_says_so_too(isa, word, dtype, programs):
    pytest.importorskip("mpmath")
    numpy_dtype = np.dtype({"float": np.float32, "double": np.float64}[dtype])
    done = subprocess.run([programs(isa), "values", word, dtype], input=grid(numpy_dtype).tobytes(),
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    x, y = np.frombuffer(done.stdout, numpy_dtype).reshape(-1, 2).T
    kept = np.isfinite(x)
    x, unique = np.unique(x[kept], return_index=True)
    y = y[kept][unique]
    assert len(x) > 20_000
    errors = ulp_errors(word, x, y)
    worst = np.argmax(errors)
    assert errors[worst] <= ALLOWED_ULP, f"{word}({x[worst]!r}) = {y[worst]!r} is off by {errors[worst]:.3g} ULP"


def test_the_judge_sees_errors(dtype):
    pytest.importorskip("mpmath")
    x = np.array([0, 1, -2, 30, np.log(np.finfo(dtype).tiny) - 1, 1e4, -1e4, 1e4, 2], dtype)
    y = np.array([1, np.e, np.exp(-2), np.exp(30), np.finfo(dtype).tiny / np.e, np.inf, 0, 1, np.nan], dtype)
    y[:5] += 7 * np.spacing(y[:5])
    errors = ulp_errors("EXP", x, y)
    assert (errors[:4] > 6).all() and (errors[:5] < 70).all() and errors[4] > ALLOWED_ULP
    assert errors[5:].tolist() == [0, 0, np.inf, np.inf]
