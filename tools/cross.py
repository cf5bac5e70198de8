"""Compiles and links the engine, without Python, for other systems: `python tools/cross.py OUT [TARGET ...]`.

By `zig c++` (the package `ziglang`), which brings the headers and libraries of each. The program is tests/engine's,
with the flags of setup.py, but not optimised, which takes a third of the time. Nothing runs it here. `--quick` compiles
what differs between systems alone, and links nothing. `make cross` runs it.
"""

import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {  # zig's name: setuptools' name, what zig calls the baseline of setup.py
    "x86_64-windows-gnu": ("mingw-x86_64", "-mcpu=x86_64_v2"),
    "x86_64-macos": ("macosx-11.0-x86_64", "-mcpu=x86_64_v2"),
    "aarch64-macos": ("macosx-11.0-arm64", "-mcpu=baseline"),
}
QUICK = ("platform.cpp", "memory.cpp", "threads.cpp", "dispatch.cpp")
BASELINE = ("-march=", "-Xarch_", "-g0", "-O2")


def zig(target, *arguments):
    """What zig said; it has to succeed."""
    done = subprocess.run([sys.executable, "-m", "ziglang", "c++", "-target", target, TARGETS[target][1], *arguments],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    if done.returncode or "warning:" in done.stderr:
        raise SystemExit(f"{target}: {' '.join(map(str, arguments))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def compile_for(target, out, quick=False):
    """The program for a target, or the objects of a few sources; its file or their folder."""
    flags = runpy.run_path(str(ROOT / "setup.py"))["compile_flags"](TARGETS[target][0])
    flags = ["-O0", "-fno-sanitize=undefined", *(flag for flag in flags if not flag.startswith(BASELINE))]
    folder = Path(out) / target
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted({*ROOT.glob("src/*.cpp"), *ROOT.glob("src/kernels/*.cpp")} - {ROOT / "src/engine.cpp"})
    sources = [one for one in sources if one.name in QUICK or not quick]
    sources += [] if quick else [ROOT / "tests" / "engine" / "engine.cpp"]
    objects = [folder / f"{one.stem}.o" for one in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda one, to: zig(target, *flags, "-Isrc", "-c", one, "-o", to), sources, objects))
    if quick:
        return folder
    zig(target, *objects, "-o", folder / "engine")
    return folder / "engine"


def main(arguments):
    quick = "--quick" in arguments
    out, *targets = [one for one in arguments if one != "--quick"]
    for target in targets or TARGETS:
        print(f"{target}: {compile_for(target, Path(out).resolve(), quick)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
