"""Names what this machine lacks to build fastbp, as packagers call it: `PYTHON tools/prerequisites.py` (make runs it).

Runs under any Python >= 3.6, before anything is installed, and uses the standard library only.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec

SOURCE = """
#include <Python.h>
#include <memory>
#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 11
#error too old
#endif
extern "C" int fastbp_try() { auto p = std::make_unique<int>(1); return *p; }
"""


def compiler():
    """The C++ compiler that setup.py will use, as a list of words, or None."""
    chosen = os.environ.get("CXX")
    candidates = [chosen] if chosen else [sysconfig.get_config_var("CXX") or "", "c++", "g++", "clang++"]
    return next((words for words in map(shlex.split, candidates) if words and shutil.which(words[0])), None)


def compiles(words):
    """Whether that compiler makes a shared library of `SOURCE`, and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "try.cpp")
        with open(source, "w") as file:
            file.write(SOURCE)
        flags = ["-std=c++17", "-shared", "-fPIC", "-I" + sysconfig.get_path("include")]
        if sys.platform == "darwin":
            flags.append("-Wl,-undefined,dynamic_lookup")
        run = subprocess.run(words + flags + [source, "-o", os.path.join(folder, "try.so")],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    return run.returncode == 0, run.stdout


def missing():
    """Yields one line for each thing that is missing."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.version_info < (3, 11):
        yield f"Python >= 3.11: {sys.executable} is {name}; choose another: make PYTHON=python3.12 ..."
        return
    if not (find_spec("venv") and find_spec("ensurepip")):
        yield f"Python's venv module with ensurepip: package {name}-venv (Debian, Ubuntu)"
    headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
    if not headers:
        yield f"Python's headers (Python.h): package {name}-dev (Debian, Ubuntu) or {name}-devel (Fedora)"
    words = compiler()
    if words is None:
        chosen = f" (CXX says {os.environ['CXX']}, which is not there)" if os.environ.get("CXX") else ""
        yield (f"a C++ compiler, GCC >= 11 or Clang >= 14{chosen}: package g++ (Debian, Ubuntu) or gcc-c++ (Fedora); "
               "or name yours: make CXX=clang++ ...")
    elif headers:
        good, said = compiles(words)
        if not good:
            yield (f"a C++ compiler, GCC >= 11 or Clang >= 14, that works: `{' '.join(words)}` failed on a few lines "
                   "(another one: make CXX=clang++ ...). It said:\n    " + "\n    ".join(said.strip().splitlines()[:8]))


if __name__ == "__main__":
    found = list(missing())
    for line in found:
        print("missing: " + line, file=sys.stderr)
    sys.exit(1 if found else 0)
