"""Accuracy of EXP EXPM1 LOG LOG1P TANH and sigmoid: tests/ulp/ulp.cpp, built for each ISA of this machine, in brief."""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import VECTOR_BYTES

ROOT = Path(__file__).parents[1]
DTYPES, WORDS = ("float", "double"), ("EXP", "EXPM1", "LOG", "LOG1P", "TANH", "SIGMOID")


def compile_flags():
    """The flags of the extension."""
    spec = importlib.util.spec_from_file_location("fastbp_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    return setup.compile_flags()


def compiler():
    words = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("c++") or "clang++"]
    return words, "clang" in Path(words[0]).name or platform.system() == "Darwin"


@pytest.mark.noasan
def test_the_words_are_within_4_ulp(isa, tmp_path):
    program = tmp_path / "ulp"
    command, is_clang = compiler()
    quad = [] if is_clang or platform.machine() != "x86_64" else ["-lquadmath"]
    subprocess.run(
        [*command, *compile_flags(), f"-DFBP_VECTOR_BYTES={VECTOR_BYTES[isa]}", str(ROOT / "tests/ulp/ulp.cpp"),
         "-o", str(program), *quad],
        check=True, timeout=300,
    )  # fmt: skip
    done = subprocess.run([program, "quick"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {tuple(line.split()[:2]) for line in done.stdout.splitlines() if line.endswith(" PASS")}
    assert passed == {(word, dtype) for word in WORDS for dtype in DTYPES}, done.stdout
