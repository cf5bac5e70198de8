"""Other systems: their calls stand in one file, the flags are theirs, zig compiles that file (`make cross`)."""

import re
import runpy
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for kind in ("cpp", "hpp", "pyx") for path in (ROOT / "src").rglob(f"*.{kind}"))
SYSTEM = re.compile(
    r"#include <(?:sys/|unistd|pthread|sched|signal|fcntl|dlfcn|windows|process|malloc|crt_externs)"
    r"|\b(?:pthread_\w+|mmap|munmap|mprotect|madvise|sysconf|getpid|fork|posix_memalign|_aligned_malloc|VirtualAlloc"
    r"|sched_yield|clock_gettime|usleep|environ)\s*(?:\(|;)"
    r"|defined\((?:_WIN32|__APPLE__|__linux__)\)"
)


def test_the_system_is_asked_in_one_file():
    asking = {path.name for path in SOURCES if SYSTEM.search(path.read_text())}
    assert asking == {"platform.hpp", "platform.cpp"}
    assert len(SOURCES) > 30 and SYSTEM.search("  pid_t p = getpid();") and SYSTEM.search("#include <sys/mman.h>")


def test_no_integer_of_the_engine_has_another_width_on_windows():
    """`long` has 32 bits there."""
    wide = re.compile(r"\b(?:unsigned long|long int|long long|long)\b(?! double)")
    found = [f"{path.name}: {line.strip()}" for path in SOURCES for line in path.read_text().splitlines()
             if path.suffix != ".pyx" or "cdef" in line
             if wide.search(re.sub(r"//.*|#.*|\"[^\"]*\"", "", line)) and "static_cast<long>" not in line]  # fmt: skip
    assert not found, found


@pytest.fixture(scope="module")
def setup_py():
    return runpy.run_path(str(ROOT / "setup.py"))


def test_each_system_has_its_flags(setup_py, monkeypatch):
    for name in ("FASTBP_SANITIZE", "FASTBP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    compiled, linked = setup_py["compile_flags"], setup_py["link_flags"]
    assert "-march=x86-64-v2" in compiled("linux-x86_64") and "-Wl,-z,relro" in linked("linux-x86_64")
    assert not [flag for flag in compiled("linux-aarch64") if "march" in flag]
    mac = compiled("macosx-11.0-universal2")
    assert mac[mac.index("-march=x86-64-v2") - 1] == "-Xarch_x86_64"
    assert not [flag for flag in linked("macosx-11.0-arm64") if flag.startswith("-Wl,-z") or flag == "-s"]
    windows = compiled("win-amd64")
    assert not [flag for flag in windows if flag.startswith("-")] and "/clang:-march=x86-64-v2" in windows
    assert not [flag for flag in compiled("win-arm64") if "march" in flag] and not linked("win-amd64")
    for arithmetic in setup_py["ARITHMETIC"]:
        assert arithmetic in mac and f"/clang:{arithmetic}" in windows


class Microsoft:
    """As setuptools' compiler of Windows, as far as the build changes it."""

    compiler_type, initialized, cc = "msvc", False, "cl.exe"
    compile_options = ("/nologo", "/O2", "/W3", "/GL", "/DNDEBUG", "/MD")

    def initialize(self, platform):
        self.initialized = platform


def test_on_windows_clang_compiles_and_microsoft_links(setup_py, monkeypatch, tmp_path):
    from setuptools import Distribution, Extension

    library = tmp_path / "lib/clang/19/lib/windows/clang_rt.builtins-x86_64.lib"
    library.parent.mkdir(parents=True)
    library.touch()
    clang = tmp_path / "bin" / "clang-cl"
    clang.parent.mkdir()
    clang.write_text("#!/bin/sh\n")
    clang.chmod(0o755)
    command = setup_py["build_ext"](Distribution())
    command.compiler, command.plat_name = Microsoft(), "win-amd64"
    extension = Extension("fastbp._engine", ["src/engine.pyx"])
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="on Windows the kernels need clang-cl"):
        command.use_clang_cl(extension)
    mingw = clang.parent / "c++"  # which takes none of Microsoft's options
    mingw.write_text("#!/bin/sh\n")
    mingw.chmod(0o755)
    monkeypatch.setenv("PATH", str(clang.parent))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setitem(setup_py["use_a_compiler_that_exists"].__globals__, "PLATFORM", "win-amd64")
    setup_py["use_a_compiler_that_exists"]()
    command.use_clang_cl(extension)
    assert command.compiler.cc == str(clang) and command.compiler.initialized == "win-amd64"
    assert "/GL" not in command.compiler.compile_options and extension.extra_objects == [str(library)]


def test_the_limited_api_is_chosen_by_a_switch(setup_py, monkeypatch):
    monkeypatch.delenv("FASTBP_ABI3", raising=False)
    assert not setup_py["abi3"]()
    monkeypatch.setenv("FASTBP_ABI3", "1")
    assert setup_py["abi3"]()
    monkeypatch.chdir(ROOT)
    extension = setup_py["extension"]()
    assert extension.py_limited_api and ("Py_LIMITED_API", "0x030B0000") in extension.define_macros


@pytest.mark.slow
@pytest.mark.noasan
@pytest.mark.skipif(not find_spec("ziglang"), reason="needs ziglang; `make cross` fetches it")
@pytest.mark.parametrize("target", runpy.run_path(str(ROOT / "tools" / "cross.py"))["TARGETS"])
def test_what_differs_between_systems_compiles_for_them(target, tmp_path):
    tool = [sys.executable, ROOT / "tools" / "cross.py", tmp_path, target, "--quick"]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / target / "platform.o").stat().st_size > 1000
