"""The C++ for arm64: cross-compiled without a warning, and run under an emulator (`make arm64`)."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.noasan,
    pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64"),
]


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.splitlines()


def emulated(folder, *sources, flags=(), arguments=()):
    """What a program says on arm64, line by line."""
    own = [flag for flag in runpy.run_path(str(ROOT / "setup.py"))["compile_flags"]() if not flag.startswith("-march=")]
    program = folder / "program"
    run(COMPILER, *own, "-Werror", *flags, f"-I{ROOT / 'src'}", *sources, "-static", "-o", program)
    return run(EMULATOR, program, *arguments)


def test_the_engine_trains_as_plain_loops_do(tmp_path):
    """NEON is the only ISA there; each kernel family, float and double, fused and not."""
    engine = sorted({*ROOT.glob("src/*.cpp"), *ROOT.glob("src/kernels/*.cpp")} - {ROOT / "src/engine.cpp"})
    lines = emulated(tmp_path, ROOT / "tests/engine/engine.cpp", *engine)
    assert {line.split()[0] for line in lines} == {"neon"}
    assert {line.split()[2] for line in lines} == {"TINY", "SINGLE", "FEW", "NARROW", "DIRECT"}
    assert all(line.endswith(" PASS") for line in lines)


def test_the_words_are_within_4_ulp(tmp_path):
    source = ROOT / "tests/ulp/ulp.cpp"
    lines = emulated(tmp_path, source, flags=["-DFBP_VECTOR_BYTES=16"], arguments=["quick"])
    assert len(lines) == 13 and lines[-1] == "PASS"
