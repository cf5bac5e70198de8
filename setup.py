"""Builds `fastbp._engine`; all that is static (name, version, packages, dependencies) stands in pyproject.toml.

Switches, read from the environment:
  FASTBP_NO_EXTENSION=1  pure Python: no compiler needed, the reference backend only
  FASTBP_SANITIZE=1      AddressSanitizer and UndefinedBehaviorSanitizer, every report fatal (`make asan`)
  FASTBP_DEBUG=1         -O0 -g, assertions on
  CXX                    the compiler: GCC >= 11 or Clang >= 14

Nothing here depends on the machine that builds: the kernels of each ISA set their own target by a pragma, and the
engine chooses among them when it is loaded.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext

# What Python (or CXXFLAGS, LDFLAGS) brings along and the extension may not get: flags that change the meaning of
# arithmetic or link start-up code that flushes subnormals to zero, and run paths of this machine.
REFUSED = ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-march=", "-Wl,-rpath")

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def enabled(switch):
    return os.environ.get(switch, "") not in ("", "0")


def compile_flags():
    """They stand behind Python's own flags on the command line, and win: -O2 over -O3, -g0 over -g."""
    flags = ["-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv", "-fno-lto",
             "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]
    if sysconfig.get_platform().endswith(("-x86_64", "-amd64")):
        flags.append("-march=x86-64-v2")
    if enabled("FASTBP_SANITIZE"):
        return ["-O1", "-g1", "-UNDEBUG", "-fno-omit-frame-pointer", *SANITIZERS, *flags]
    if enabled("FASTBP_DEBUG"):
        return ["-O0", "-g", "-UNDEBUG", *flags]
    return ["-O2", "-g0", *flags]


def link_flags():
    flags = ["-pthread"]
    if sys.platform == "linux":
        flags += ["-Wl,-z,relro", "-Wl,-z,now"]
    if enabled("FASTBP_SANITIZE"):
        return [*flags, *SANITIZERS]
    return flags if enabled("FASTBP_DEBUG") or sys.platform == "darwin" else [*flags, "-s"]


def without_refused(command):
    return [word for word in command if not word.startswith(REFUSED)]


def use_a_compiler_that_exists():
    """Pythons built elsewhere name the compiler of their builder; where it is missing, take the one that is here."""
    configured = shlex.split(sysconfig.get_config_var("CXX") or "")
    if not os.environ.get("CXX") and not (configured and shutil.which(configured[0])):
        os.environ["CXX"] = next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")


def extension():
    import numpy

    cpp = {*glob("src/*.cpp"), *glob("src/kernels/*.cpp")} - {"src/engine.cpp"}   # left by a Cython run by hand
    return Extension(
        "fastbp._engine",
        sources=["src/engine.pyx", *sorted(cpp)],
        depends=["setup.py", "fastbp/_engine.pxd",
                 *sorted(glob("src/*.pyx") + glob("src/*.hpp") + glob("src/kernels/*.hpp"))],
        include_dirs=["src", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                       ("FASTBP_COMPILE_FLAGS", f'"{" ".join(compile_flags())}"')],   # shown by `python -m fastbp info`
        extra_compile_args=compile_flags(),
        extra_link_args=link_flags(),
        language="c++",
    )


class build_ext(_build_ext):
    """setuptools' own, but always from scratch, with clean flags, and one source per core at a time."""

    def finalize_options(self):
        super().finalize_options()
        self.force = True   # up to date is judged by file times, which do not see another CXX or another switch

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            sys.exit("fastbp: MSVC lacks the vector extensions of the kernels; on Windows they need clang-cl "
                     "(not driven by this build yet). FASTBP_NO_EXTENSION=1 installs without them.")
        compiler = self.compiler.compiler_so_cxx[0]
        if not shutil.which(compiler):
            sys.exit(f"fastbp: there is no compiler {compiler!r}: install GCC >= 11 or Clang >= 14, or set CXX. "
                     "FASTBP_NO_EXTENSION=1 installs without the compiled kernels.")
        # Not cythonize(): with a folder of its own for the result it copies all headers there too, and compiles those.
        pyx, *cpp = ext.sources
        made = "build/cython/engine.cpp"
        self.mkpath(os.path.dirname(made))
        self.spawn([sys.executable, "-m", "cython", "-3", "--cplus", "-I", ".", "--module-name", ext.name, pyx, "-o",
                    made])   # -I: fastbp/_engine.pxd
        ext.sources = [made, *cpp]
        for name in ("compiler_cxx", "compiler_so_cxx", "linker_so_cxx"):
            setattr(self.compiler, name, without_refused(getattr(self.compiler, name)))

        compile_some = self.compiler.compile   # setuptools' parallel= is per extension, and there is only one

        def compile_each(sources, **options):
            with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
                return sum(pool.map(lambda source: compile_some([source], **options), sources), [])

        self.compiler.compile = compile_each
        super().build_extension(ext)


if __name__ == "__main__":   # imported, this file gives its flags to the tests and to the Makefile
    use_a_compiler_that_exists()
    setup(ext_modules=[] if enabled("FASTBP_NO_EXTENSION") else [extension()], cmdclass={"build_ext": build_ext})
