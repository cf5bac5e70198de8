"""What users install: the sdist, the wheel built from it, and the compiled module inside.

The sources are copied, the sdist is built from the copy, unpacked elsewhere, and the wheel is built there: so one
compilation shows that the sdist is complete, and leaves the objects of each source to look at. The wheel then goes into
a fresh environment that has NumPy and nothing else.
"""

import os
import platform
import re
import runpy
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SOURCE_FOLDERS = ("fastbp", "src", "tests", "examples", "benchmarks", "docs", "tools")
# What is not source in a working tree: made by builds and tools, or a folder of its own.
DEBRIS = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "*.egg-info", "*.so", "*.pyd", "*.pyc", "*.o", "engine.cpp"
)

# `serial`: a build uses all cores, and its time is checked.
pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.noasan]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at ELF files")
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="looks at x86-64 instructions")


def run(*command, cwd, **environment):
    """The output of a command that must succeed; it inherits no setting of this Python or of fastbp."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTBP_"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env={**inherited, **environment},
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build(what, source, out, **environment):
    """Builds with the tools of this environment, as `python -m build` does without a download; returns the file."""
    run(sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", out, cwd=source, **environment)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    pytest.importorskip("build")
    copy = tmp_path_factory.mktemp("copy") / "fastbp"
    shutil.copytree(ROOT, copy, ignore=DEBRIS)
    # What stands about in a tree that has been worked in may not be packed.
    for stale in ("fastbp/_engine.so", "fastbp/__pycache__/mlp.pyc", "src/engine.cpp", "src/kernels/isa.o"):
        (copy / stale).parent.mkdir(exist_ok=True)
        (copy / stale).write_bytes(b"stale")
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    run("tar", "-xf", sdist, cwd=folder)
    return folder / f"fastbp-{VERSION}"


@pytest.fixture(scope="module")
def built(unpacked, tmp_path_factory):
    """The wheel, the seconds it took, its compiled module as a file of its own, and the objects that went into it."""
    start = time.monotonic()
    wheel = build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))
    seconds = time.monotonic() - start
    with zipfile.ZipFile(wheel) as archive:
        engine = Path(archive.extract(f"fastbp/_engine{SUFFIX}", tmp_path_factory.mktemp("engine")))
    objects = sorted(unpacked.glob("build/temp*/**/*.o"))
    return SimpleNamespace(wheel=wheel, seconds=seconds, engine=engine, objects=objects)


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """The interpreter of a new environment that holds the wheel and its only dependency."""
    return environment_with(built.wheel, tmp_path_factory.mktemp("fresh"))


def environment_with(wheel, folder, *libraries):
    """No index is asked: NumPy is linked from here, and any other requirement of the wheel would be an error.

    So are other `libraries`, by name. Without a wheel there is nothing else.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    for library in map(distribution, ("numpy", *libraries)):
        for top in {path.parts[0] for path in library.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(library.locate_file(top))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    if wheel is not None:
        run(*pip, "install", "--no-index", wheel, cwd=folder)
    return python


# --- what is in the files ---

SDIST = [re.compile(pattern) for pattern in (
    r"PKG-INFO|LICENSE|README\.md|CHANGELOG\.md|CONTRIBUTING\.md|SECURITY\.md|CITATION\.cff|MANIFEST\.in|Makefile|pyproject\.toml|setup\.(py|cfg)",
    r"fastbp\.egg-info/[\w-]+(\.\w+)?",
    r"fastbp/(\w+/)*\w+\.pyi?|fastbp/py\.typed|fastbp/_engine\.pxd",
    r"src/\w+\.(pyx|pxd|cpp|hpp)|src/kernels/\w+\.(cpp|hpp)",
    r"tests/([\w-]+/)*[\w.-]+|docs/([\w-]+/)*[\w.-]+",
    r"(examples|benchmarks)/([\w-]+/)*[\w.-]+\.(py|pyx|md)|benchmarks/records/[\w-]+\.json|tools/\w+\.py",
)]


def test_the_sdist_holds_the_sources_and_nothing_else(sdist):
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        assert all(member.isfile() and not member.mode & (stat.S_ISUID | stat.S_ISGID) for member in members)
    names = {member.name.removeprefix(f"fastbp-{VERSION}/") for member in members}
    assert [name for name in sorted(names) if not any(pattern.fullmatch(name) for pattern in SDIST)] == []
    assert not names & {"src/engine.cpp", "fastbp/_engine.so", "src/kernels/isa.o"}
    wanted = {path.relative_to(ROOT).as_posix() for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*")
              if path.is_file() and not DEBRIS("", path.relative_to(ROOT).parts)}
    wanted |= {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "Makefile",
               "setup.py", "pyproject.toml"}
    assert sorted(wanted - names) == []


def in_wheel(*compiled):
    """The package's own files, the compiled module if any, and the metadata."""
    own = {path.relative_to(ROOT).as_posix() for pattern in ("**/*.py", "*.pyi", "*.pxd", "py.typed")
           for path in (ROOT / "fastbp").glob(pattern)}
    metadata = ("METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE")
    return own | set(compiled) | {f"fastbp-{VERSION}.dist-info/{name}" for name in metadata}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built.wheel) as archive:
        assert set(archive.namelist()) == in_wheel(f"fastbp/_engine{SUFFIX}")


def test_sizes_and_build_time(built):
    assert built.wheel.stat().st_size <= 4 * 2**20
    assert built.engine.stat().st_size <= 9 * 2**20
    assert built.seconds <= 180


def test_no_path_of_this_machine_is_in_the_files(sdist, built, tmp_path_factory):
    paths = (ROOT, tmp_path_factory.getbasetemp(), *map(Path, (sys.prefix, sys.base_prefix, os.__file__)), Path.home())
    forbidden = [str(path).encode() for path in paths if len(path.parts) > 2]
    with zipfile.ZipFile(built.wheel) as wheel, tarfile.open(sdist) as archive:
        contents = {name: wheel.read(name) for name in wheel.namelist()}
        contents |= {file.name: archive.extractfile(file).read() for file in archive.getmembers() if file.isfile()}
    assert [(name, path) for name, content in contents.items() for path in forbidden if path in content] == []


def test_the_version_stands_in_one_place():
    number = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    files = (path for pattern in ("setup.py", "fastbp/**/*.py", "src/**/*.*") for path in ROOT.glob(pattern))
    assert [path for path in files if number.search(path.read_text())] == []


# --- what they do, installed ---

TRAIN = """
import sys, numpy as np, fastbp
assert fastbp.__file__.startswith(sys.prefix), fastbp.__file__
rng = np.random.default_rng(0)
X = rng.standard_normal((20, 2)).astype(np.float32)
net = fastbp.MLP((2, 3, 1), activation="identity", bias=False, seed=1)
net.fit(X, X.sum(axis=1, keepdims=True), loss="mse", batch_size=8, steps=50, shuffle=False)
assert np.isfinite(net.predict(X)).all()
print(fastbp.__version__)
"""


def trains(python, cwd):
    assert run(python, "-c", TRAIN, cwd=cwd).strip() == VERSION
    assert "loss_mse on all data is 5.13118" in run(python, "-m", "fastbp", "demo", cwd=cwd)
    return run(python, "-m", "fastbp", "info", cwd=cwd)


def test_the_wheel_works_in_a_fresh_environment(fresh, tmp_path):
    run(fresh, "-c", "import fastbp._engine", cwd=tmp_path)
    assert VERSION in trains(fresh, tmp_path)


def test_without_the_extension_the_package_is_pure_python(unpacked, tmp_path):
    for folder in ("wheel", "fresh"):
        (tmp_path / folder).mkdir()
    wheel = build("wheel", unpacked, tmp_path / "wheel", FASTBP_NO_EXTENSION="1", CXX="no-such-compiler")
    assert wheel.name == f"fastbp-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == in_wheel()
    python = environment_with(wheel, tmp_path / "fresh")
    assert "is not there: fastbp was installed with FASTBP_NO_EXTENSION" in trains(python, tmp_path)
    run(python, "-W", "error", "-c", TRAIN, cwd=tmp_path)


def test_an_editable_installation_without_the_extension_does_not_warn_of_that(unpacked, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(unpacked, clone, ignore=DEBRIS)
    (tmp_path / "fresh").mkdir()
    python = environment_with(None, tmp_path / "fresh", "setuptools")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-index", "--no-build-isolation", "-e", clone, cwd=tmp_path, FASTBP_NO_EXTENSION="1")
    script = TRAIN.replace("sys.prefix", repr(str(clone)))
    for folder in (tmp_path, clone):
        run(python, "-W", "error", "-c", script, cwd=folder)


@pytest.fixture(scope="module")
def build_tools(tmp_path_factory):
    """A folder that holds Cython and setuptools, for environments that have neither."""
    folder = tmp_path_factory.mktemp("build_tools")
    for name in ("Cython", "setuptools"):
        found = distribution(name)
        for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
            if not top.endswith(".pth") and not (folder / top).exists():
                (folder / top).symlink_to(found.locate_file(top))
    return folder


def test_an_extension_module_is_built_on_the_wheel_and_computes_what_fastbp_does(fresh, build_tools, tmp_path):
    shutil.copytree(ROOT / "examples" / "extension", tmp_path, dirs_exist_ok=True, ignore=DEBRIS)
    run(fresh, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path, PYTHONPATH=str(build_tools))
    out = run(fresh, "use.py", cwd=tmp_path)
    loss, difference = re.search(r"loss (\S+); largest difference from MLP.fit (\S+)", out).groups()
    assert 0 < float(loss) < 1e-3 and float(difference) < 1e-12
    assert "the tenth state is that of MLP.predict: True" in out


def test_an_extension_module_for_another_version_of_the_c_api_is_refused(fresh, build_tools, tmp_path):
    """Its declarations are those of a later fastbp."""
    later = tmp_path / "later" / "fastbp"
    later.mkdir(parents=True)
    (later / "__init__.pxd").write_text("")
    text = (ROOT / "fastbp" / "_engine.pxd").read_text()
    (later / "_engine.pxd").write_text(text.replace("#define FASTBP_API_VERSION 1", "#define FASTBP_API_VERSION 2"))
    shutil.copytree(ROOT / "examples" / "extension", tmp_path / "module", ignore=DEBRIS)
    setup = (tmp_path / "module" / "setup.py").read_text()
    (tmp_path / "module" / "setup.py").write_text(setup.replace("language_level=3", 'include_path=["../later"]'))
    run(fresh, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path / "module", PYTHONPATH=str(build_tools))
    refused = "import sys\ntry: import layer\nexcept ImportError as error: sys.exit(print(error))\nsys.exit('no error')"
    said = run(fresh, "-c", refused, cwd=tmp_path / "module")
    assert "compiled for version 2 of fastbp's C API, and the fastbp that is installed has version 1" in said


# A product of normal numbers that is subnormal, in this thread and in a new one.
SUBNORMALS = """
import sys, threading, numpy as np
def kept():
    return [kind(np.finfo(kind).tiny) * kind(0.25) > 0 for kind in (np.float32, np.float64)]
def kept_in_a_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(kept()))
    thread.start()
    thread.join()
    return seen
assert all(kept()), "flushed before the import"
import fastbp, fastbp._engine
assert kept() + kept_in_a_thread() == [True] * 4
"""


def test_import_leaves_subnormal_numbers_alone(fresh, tmp_path):
    run(fresh, "-c", SUBNORMALS, cwd=tmp_path)


# --- how it is compiled ---


@pytest.mark.parametrize("switch", [None, "FASTBP_SANITIZE", "FASTBP_DEBUG"])
def test_flags_depend_on_no_machine_and_keep_the_arithmetic(switch, monkeypatch):
    for name in ("FASTBP_SANITIZE", "FASTBP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    if switch:
        monkeypatch.setenv(switch, "1")
    setup_py = runpy.run_path(str(ROOT / "setup.py"))
    flags = setup_py["compile_flags"]() + setup_py["link_flags"]()
    assert not {"-march=native", "-mtune=native", "-ffast-math", "-Ofast", "-funsafe-math-optimizations"} & set(flags)
    given = ["g++", "-ffast-math", "-O3", "-Ofast", "-march=native", "-Wl,-rpath,/somewhere", "-fPIC"]
    assert setup_py["without_refused"](given) == ["g++", "-O3", "-fPIC"]


def binutils(tool, *arguments):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    return run(tool, *arguments, cwd=ROOT, LC_ALL="C")


@linux
def test_the_compiled_module_is_hardened_and_stripped(built):
    dynamic = binutils("readelf", "-dW", built.engine)
    assert "BIND_NOW" in dynamic or "NOW" in dynamic.partition("FLAGS_1")[2]
    assert not re.search(r"\((RPATH|RUNPATH|TEXTREL)\)", dynamic)
    segments = binutils("readelf", "-lW", built.engine)
    assert "GNU_RELRO" in segments
    (stack,) = re.findall(r"GNU_STACK.*", segments)
    assert "RWE" not in stack
    assert not re.search(r"\.(symtab|debug_\w+)", binutils("readelf", "-SW", built.engine))


@linux
def test_the_compiled_module_needs_the_c_and_cpp_libraries_only(built):
    needed = set(re.findall(r"\(NEEDED\).*\[(\w[\w+-]*)", binutils("readelf", "-dW", built.engine)))
    assert needed <= {"libstdc++", "libm", "libgcc_s", "libc", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


@linux
@x86
def test_no_constructor_touches_the_floating_point_environment(built):
    """What runs when the module is loaded: the functions of .init_array (crtfastmath.o puts one there)."""
    sections = binutils("readelf", "-SW", built.engine)
    address, size = re.search(r"INIT_ARRAY\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", sections).groups()
    table = range(int(address, 16), int(address, 16) + int(size, 16))
    relocations = binutils("readelf", "-rW", built.engine)
    relative = re.findall(r"^([0-9a-f]+)\s+\w+\s+R_X86_64_RELATIVE\s+([0-9a-f]+)", relocations, re.M)
    constructors = [int(function, 16) for place, function in relative if int(place, 16) in table]
    assert constructors
    for start in constructors:
        code = binutils("objdump", "-d", f"--start-address={start}", f"--stop-address={start + 400}", built.engine)
        assert "mxcsr" not in re.split(r"\tret", code)[0]


@linux
def test_each_isa_exports_one_table_and_nothing_that_could_be_merged(built):
    """The linker keeps one copy of a weak symbol, from any object: AVX-512 code would run on every CPU."""
    kernels = {path.stem for path in ROOT.glob("src/kernels/*.cpp")}
    objects = [path for path in built.objects if path.stem in kernels]
    assert {path.stem for path in objects} == kernels != set()
    tables = []
    for path in objects:
        symbols = re.findall(r"^\w* (\w) (\S+)$", binutils("nm", "--defined-only", "--extern-only", path), re.M)
        assert [name for kind, name in symbols if kind in "VvWwu"] == [], path.name
        assert len(symbols) <= 1, (path.name, symbols)
        tables += symbols
        assert ".init_array" not in binutils("readelf", "-SW", path), f"{path.name} runs code when it is loaded"
    assert tables  # none of an ISA of other machines


@linux
@x86
def test_the_baseline_holds_no_avx(built):
    for path in built.objects:
        code = binutils("objdump", "-d", "--no-show-raw-insn", path)
        found = re.findall(r"^ *[0-9a-f]+:\tv\w+ .*", code, re.M)[:5]
        assert (found != []) == ("_avx" in path.name), (path.name, found)  # those show what it looks like


# --- the tools of the Makefile ---


def test_missing_prerequisites_are_named(tmp_path):
    def says(**environment):
        command = [sys.executable, str(ROOT / "tools" / "prerequisites.py")]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        return done.returncode, done.stderr

    assert says() == (0, "")
    for environment in ({"PATH": str(tmp_path), "CXX": ""}, {"CXX": shutil.which("false")}):
        code, message = says(**environment)
        assert code == 1 and message.startswith("missing: a C++ compiler, GCC >= 11 or Clang >= 14")
