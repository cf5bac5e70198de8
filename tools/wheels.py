"""Wheels for the Pythons of this machine, and what is looked at in them: `make wheels`.

    python tools/wheels.py here OUT           build, repair, look at and try a wheel for each CPython >= 3.11
    python tools/wheels.py look WHEEL ...     its size, the libraries and symbols of its module, against its tag
    python tools/wheels.py both               tests/short.py in this environment, with the newest and the oldest NumPy

The first builds from the sdist, as users do. It runs in an environment that has `build` and auditwheel; each Python's
wheel is tried in fresh environments that hold NumPy alone. `both` is what the workflow runs on every platform.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = ROOT / "tests" / "short.py"
OLDEST_PYTHON, OLDEST_NUMPY = (3, 11), (2, 0)
MOST_BYTES = 4 * 2**20
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")

# What the module may need of the system, and what others may see of it; on other systems than Linux the repairing tools
# look at the first.
NEEDED = {"libstdc++", "libm", "libgcc_s", "libc", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
EXPORTED = {"PyInit__engine", "fastbp_thread_limit"}


def run(*command, cwd=None, **environment):
    """The output of a command that must succeed; it inherits no setting of this Python."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "__PYVENV"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env={**inherited, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-6000:]}")
    return done.stdout


# ------------------------------------------------------------------ interpreters

ASK = """import json, sys, sysconfig
print(json.dumps([sys.implementation.name, sys.version_info[:2], bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                  sys.executable]))"""


def pythons(candidates=None):
    """{(version, whether it has no GIL): executable} of each CPython that is new enough: on PATH, and pyenv's."""
    if candidates is None:
        names = [f"python3.{minor}{free}" for minor in range(OLDEST_PYTHON[1], 30) for free in ("", "t")]
        candidates = [found for found in map(shutil.which, names) if found]
        pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
        candidates += sorted(glob.glob(f"{pyenv}/versions/*/bin/python3.*[0-9t]"))
    found = {}
    for one in candidates:
        done = subprocess.run([one, "-c", ASK], capture_output=True, text=True, cwd="/")
        if done.returncode:  # pyenv's stand-ins for versions that are not chosen
            continue
        name, version, free, executable = json.loads(done.stdout)
        if name == "cpython" and tuple(version) >= OLDEST_PYTHON:
            found.setdefault((tuple(version), free), executable)
    return found


def numpys(python):
    """The oldest NumPy that fastbp takes and that has a wheel for this interpreter, and the newest."""
    asked = [python, *PIP, "download", "--no-deps", "--only-binary", ":all:", "numpy==0"]
    said = subprocess.run(asked, capture_output=True, text=True, cwd="/").stderr
    found = re.search(r"from versions: ([^)]*)", said)
    if not found:
        raise SystemExit(f"pip does not say which NumPy there is for {python}:\n{said}")
    return ends(found[1].split(", "))


def ends(versions):
    """The oldest and the newest of final releases, but for what fastbp is too new for."""
    numbers = [tuple(map(int, one.split("."))) for one in versions if re.fullmatch(r"\d+(\.\d+)*", one)]
    numbers = sorted(one for one in numbers if one >= OLDEST_NUMPY)
    return [".".join(map(str, one)) for one in (numbers[0], numbers[-1])]


# ------------------------------------------------------------------ what is in a wheel


def glibc_of(name):
    """The newest glibc that a wheel's tags claim to be content with; None where they speak of none."""
    found = [tuple(map(int, one)) for one in re.findall(r"manylinux_(\d+)_(\d+)_", name)]
    return min(found) if found else None


def objections(name, size, dynamic, symbols):
    """What is wrong with a wheel, from its name, its size and what `readelf -d` and `--dyn-syms` say of its module."""
    if size > MOST_BYTES:
        yield f"it has {size / 2**20:.1f} MiB, more than {MOST_BYTES / 2**20:.0f}"
    packed = "musllinux" in name  # where a system need not have C++'s library: auditwheel packs it in, by another name
    needed = {re.sub(r"-[0-9a-f]{8}$", "", one) if packed else one
              for one in re.findall(r"\(NEEDED\).*\[([\w+-]+)\.", dynamic)}  # fmt: skip
    if needed - NEEDED:
        yield f"its module needs {', '.join(sorted(needed - NEEDED))}"
    if re.search(r"\((RPATH|RUNPATH)\)", dynamic) and not packed:
        yield "its module looks for libraries in folders of its own"
    defined = set(re.findall(r"GLOBAL\s+DEFAULT\s+\d+\s+([\w.]+)", symbols))
    defined -= {"_init", "_fini"} if packed else set()  # of musl's start-up code
    if defined != EXPORTED:
        yield f"its module exports {', '.join(sorted(defined ^ EXPORTED))}, or lacks it"
    claimed = glibc_of(name)
    versions = [tuple(map(int, one)) for one in re.findall(r"@GLIBC_(\d+)\.(\d+)", symbols)]
    newest = max(versions, default=None)
    if claimed and newest and newest > claimed:
        yield f"its module needs glibc {'.'.join(map(str, newest))}, its tag says {'.'.join(map(str, claimed))}"
    if re.search(r"-linux_\w+\.whl$", name):
        yield "it has no tag of a manylinux or musllinux"


def look(wheel):
    """The objections to a wheel of Linux."""
    wheel = Path(wheel)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        (module,) = [name for name in archive.namelist() if re.fullmatch(r"fastbp/_engine\.[\w.-]+", name)
                     and not name.endswith((".pyi", ".pxd"))]  # fmt: skip
        if any(name.startswith("fastbp.libs/") for name in archive.namelist()) and "musllinux" not in wheel.name:
            yield "libraries were packed into it"
        path = archive.extract(module, folder)
        yield from objections(wheel.name, wheel.stat().st_size, run("readelf", "-dW", path, LC_ALL="C"),
                              run("readelf", "-W", "--dyn-syms", path, LC_ALL="C"))  # fmt: skip


# ------------------------------------------------------------------ building and trying


def build(python, sdist, folder):
    """A wheel for this interpreter, repaired: its file."""
    raw = folder / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    raw.mkdir(parents=True)
    run(python, "-m", "venv", folder / "env")
    run(folder / "env" / "bin" / "python", *PIP, "wheel", "--no-deps", "-w", raw, sdist)
    (wheel,) = raw.iterdir()
    run(sys.executable, "-m", "auditwheel", "repair", "-w", folder, wheel)
    (repaired,) = folder.glob("*.whl")
    return repaired


def attempt(python, wheel, folder):
    """The short suite from the wheel in fresh environments with nothing but NumPy; what it printed."""
    for numpy in numpys(python):
        environment = folder / f"numpy-{numpy}"
        run(python, "-m", "venv", "--clear", environment)
        inside = environment / "bin" / "python"
        run(inside, *PIP, "install", "--only-binary", ":all:", f"numpy=={numpy}", wheel)
        yield run(inside, SHORT, cwd=folder).strip()


def here(out):
    """Builds and tries them all; whether there was no objection."""
    found = pythons()
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("*.whl"), *out.glob("*.tar.gz")]:
        old.unlink()
    run(sys.executable, "-m", "build", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    print(f"{sdist.name}; CPython {', '.join(name(*one) for one in sorted(found))}", flush=True)
    right = bool(found)
    for (version, free), python in sorted(found.items()):
        wheel = build(python, sdist, out / "of" / name(version, free))
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB", flush=True)
        for objection in look(wheel):
            right = False
            print(f"  {objection}", flush=True)
        for said in attempt(python, wheel, wheel.parent):
            print(f"  {said}", flush=True)
        shutil.copy(wheel, out)
    return right


def name(version, free):
    return ".".join(map(str, version)) + "t" * free


def both():
    """The short suite with the NumPy that is here and with the oldest that this interpreter can have."""
    with tempfile.TemporaryDirectory() as elsewhere:  # no folder from which Python would import the sources
        print(run(sys.executable, SHORT, cwd=elsewhere).strip(), flush=True)
        run(sys.executable, *PIP, "install", "--only-binary", ":all:", f"numpy=={numpys(sys.executable)[0]}")
        print(run(sys.executable, SHORT, cwd=elsewhere).strip(), flush=True)


def main(arguments):
    match arguments:
        case ["here", out]:
            return not here(out)
        case ["look", *wheels] if wheels:
            found = [f"{Path(wheel).name}: {objection}" for wheel in wheels for objection in look(wheel)]
            print("\n".join(found) or "no objection")
            return bool(found)
        case ["both"]:
            return both()
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
