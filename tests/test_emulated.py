"""Older CPUs, emulated by qemu: which kernels they get, that these are right, and that no instruction is missing."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need_extension

import fastbp

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.noasan,
    pytest.mark.skipif(platform.machine() != "x86_64" or not EMULATOR, reason="needs x86-64 and qemu-x86_64"),
]

RUN = """
import sys, pytest
from fastbp import _engine
print(*_engine.isas_found(), flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""
# Each activation, each loss, the optimizers; each family, fused and not.
CORE = "{isa} and (pinned or convention or (tanh and trains_as_the_reference and fit))"


@pytest.mark.parametrize("cpu, isas", [("Nehalem", "generic"), ("Haswell", "generic avx2")])
def test_the_core_of_the_suite_runs_on_an_older_cpu(cpu, isas):
    need_extension()
    tests = [str(ROOT / "tests" / name) for name in ("test_rows.py", "test_families.py")]
    options = ["-q", "-p", "no:cacheprovider", "-k", CORE.format(isa=isas.split()[-1])]
    forced = "FASTBP_", "OPENBLAS_"  # for this CPU, not for the emulated one
    environment = {name: value for name, value in os.environ.items() if not name.startswith(forced)}
    paths = [str(Path(fastbp.__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [EMULATOR, "-cpu", cpu, sys.executable, "-c", RUN, *tests, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    found = done.stdout.partition("\n")[0]
    if cpu == "Haswell" and found == "generic":
        pytest.skip("this qemu has no AVX2: older than 7.2")
    assert found == isas
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
