"""Builds `fastbp._engine`; all that is static (name, version, packages, dependencies) stands in pyproject.toml.

Switches, read from the environment:
  FASTBP_NO_EXTENSION=1  pure Python: no compiler needed, the reference backend only
  FASTBP_SANITIZE=1      AddressSanitizer and UndefinedBehaviorSanitizer, every report fatal (`make asan`)
  FASTBP_DEBUG=1         -O0 -g, assertions on
  FASTBP_ABI3=1          Python's limited API: one module for CPython >= 3.11, of slower calls (docs/platforms.md)
  CXX                    the compiler: GCC >= 11 or Clang >= 14; on Windows it is clang-cl

Nothing here depends on the machine that builds: the kernels of each ISA set their own target by a pragma, and the
engine chooses among them when it is loaded.
"""

import os
import re
import shlex
import shutil
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext

PLATFORM = sysconfig.get_platform()   # macosx-11.0-arm64, linux-x86_64, win-amd64

# What Python (or CXXFLAGS, LDFLAGS) brings along and the extension may not get: flags that change the meaning of
# arithmetic or link start-up code that flushes subnormals to zero, and run paths of this machine.
REFUSED = ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-march=", "-Wl,-rpath")

LIMITED_API = [("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")]   # of Python 3.11

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


# What sums and products may become: fused, without errno, without traps; and integers that do not wrap.
ARITHMETIC = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv"]


def enabled(switch):
    return os.environ.get(switch, "") not in ("", "0")


def compile_flags(platform=PLATFORM):
    """They stand behind Python's own flags on the command line, and win: -O2 over -O3, -g0 over -g."""
    if platform.startswith("win"):   # clang-cl hands on what stands behind /clang:
        baseline = ["-march=x86-64-v2"] if platform == "win-amd64" else []
        return ["/std:c++17", "/O2", *(f"/clang:{flag}" for flag in ARITHMETIC + baseline), "/W3"]
    flags = ["-std=c++17", *ARITHMETIC, "-fno-lto", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]
    if platform.startswith("macosx"):
        flags += ["-Xarch_x86_64", "-march=x86-64-v2"]   # there may be two targets in one command
    elif platform.endswith(("-x86_64", "-amd64")):
        flags.append("-march=x86-64-v2")
    if enabled("FASTBP_SANITIZE"):
        return ["-O1", "-g1", "-UNDEBUG", "-fno-omit-frame-pointer", *SANITIZERS, *flags]
    if enabled("FASTBP_DEBUG"):
        return ["-O0", "-g", "-UNDEBUG", *flags]
    return ["-O2", "-g0", *flags]


def link_flags(platform=PLATFORM):
    if platform.startswith("win"):
        return []
    flags = ["-pthread"]
    if platform.startswith("linux"):
        flags += ["-Wl,-z,relro", "-Wl,-z,now"]
    if enabled("FASTBP_SANITIZE"):
        return [*flags, *SANITIZERS]
    return flags if enabled("FASTBP_DEBUG") or platform.startswith("macosx") else [*flags, "-s"]


def without_refused(command):
    return [word for word in command if not word.startswith(REFUSED)]


def use_a_compiler_that_exists():
    """Pythons built elsewhere name the compiler of their builder; where it is missing, take the one that is here."""
    if PLATFORM.startswith("win"):   # there it is clang-cl, or what CXX says: `use_clang_cl`
        return
    configured = shlex.split(sysconfig.get_config_var("CXX") or "")
    if not os.environ.get("CXX") and not (configured and shutil.which(configured[0])):
        os.environ["CXX"] = next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")


def abi3():
    """Whether one module is for all Pythons to come: free-threaded ones have no such interface yet."""
    return enabled("FASTBP_ABI3") and not sysconfig.get_config_var("Py_GIL_DISABLED")


def extension():
    import numpy

    cpp = {*glob("src/*.cpp"), *glob("src/kernels/*.cpp")} - {"src/engine.cpp"}   # left by a Cython run by hand
    return Extension(
        "fastbp._engine",
        sources=["src/engine.pyx", *sorted(cpp)],
        depends=["setup.py", "fastbp/_engine.pxd",
                 *sorted(glob("src/*.pyx") + glob("src/*.hpp") + glob("src/kernels/*.hpp"))],
        include_dirs=["src", numpy.get_include()],
        define_macros=[*LIMITED_API * abi3(), ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                       ("FASTBP_COMPILE_FLAGS", f'"{" ".join(compile_flags())}"')],   # shown by `python -m fastbp info`
        extra_compile_args=compile_flags(),
        extra_link_args=link_flags(),
        language="c++",
        py_limited_api=abi3(),
    )


class build_ext(_build_ext):
    """setuptools' own, but always from scratch, with clean flags, and one source per core at a time."""

    def finalize_options(self):
        super().finalize_options()
        self.force = True   # up to date is judged by file times, which do not see another CXX or another switch

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            self.use_clang_cl(ext)
        elif not shutil.which(self.compiler.compiler_so_cxx[0]):
            sys.exit(f"fastbp: there is no compiler {self.compiler.compiler_so_cxx[0]!r}: install GCC >= 11 or "
                     "Clang >= 14, or set CXX. FASTBP_NO_EXTENSION=1 installs without the compiled kernels.")
        else:
            for name in ("compiler_cxx", "compiler_so_cxx", "linker_so_cxx"):
                setattr(self.compiler, name, without_refused(getattr(self.compiler, name)))
        # Not cythonize(): with a folder of its own for the result it copies all headers there too, and compiles those.
        pyx, *cpp = ext.sources
        made = "build/cython/engine.cpp"
        self.mkpath(os.path.dirname(made))
        self.spawn([sys.executable, "-m", "cython", "-3", "--cplus", "-I", ".", "--module-name", ext.name, pyx, "-o",
                    made])   # -I: fastbp/_engine.pxd
        ext.sources = [made, *cpp]

        compile_some = self.compiler.compile   # setuptools' parallel= is per extension, and there is only one

        def compile_each(sources, **options):
            with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
                return sum(pool.map(lambda source: compile_some([source], **options), sources), [])

        self.compiler.compile = compile_each
        super().build_extension(ext)

    def use_clang_cl(self, ext):
        """Microsoft's libraries and linker, but Clang: their compiler lacks the vector extensions of the kernels."""
        clang = shutil.which(os.environ.get("CXX") or "clang-cl")
        if not clang:
            sys.exit("fastbp: on Windows the kernels need clang-cl, and there is none on PATH: install a new LLVM "
                     "(Visual Studio 2026 wants 20), or Visual Studio's component for it. FASTBP_NO_EXTENSION=1 "
                     "installs without the compiled kernels.")
        if not self.compiler.initialized:
            self.compiler.initialize(self.plat_name)
        self.compiler.cc = clang
        self.compiler.compile_options = [one for one in self.compiler.compile_options if one != "/GL"]
        # What `__builtin_cpu_supports` calls is in a library of Clang's, of which Microsoft's linker does not know.
        folder = os.path.dirname(os.path.dirname(os.path.realpath(clang)))
        ext.extra_objects += glob(f"{folder}/lib/clang/*/lib/windows/clang_rt.builtins-x86_64.lib") * (
            self.plat_name == "win-amd64")


# ------------------------------------------------------------------ what an index shows

# Code, which may look like a link, or a link, which may hold code: what begins first is meant.
CODE_OR_LINK = re.compile(
    r"^```.*?^```|`[^`\n]+`|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)\s]+)\)", re.M | re.S)


def absolute(text, home, tag):
    """README.md as it is read elsewhere: its links to files, and its pictures, are those of a tag at `home`."""

    def lead(found):
        mark, shown, target = found.groups()
        return f"{mark}[{shown}]({home}/{'raw' if mark else 'blob'}/{tag}/{target})" if target else found[0]

    return CODE_OR_LINK.sub(lead, text)


def long_description():
    """README.md; its links are absolute from the day on which pyproject.toml has a home page."""
    with open("pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    with open("README.md", encoding="utf-8") as file:
        text = file.read()
    home = project["urls"].get("Homepage")
    return absolute(text, home.rstrip("/"), f"v{project['version']}") if home else text


if __name__ == "__main__":   # imported, this file gives its flags to the tests and to the Makefile
    use_a_compiler_that_exists()
    setup(ext_modules=[] if enabled("FASTBP_NO_EXTENSION") else [extension()], cmdclass={"build_ext": build_ext},
          long_description=long_description(), long_description_content_type="text/markdown",
          options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3() else {})
