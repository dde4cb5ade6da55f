# make demo   set up, then train, pack, verify and report on the digits (needs Python 3.10+, a C++20 compiler)
# make test   set up, then linters, type checks, the layer check and all tests
# make test-long   further tests, of some seconds each, that every change must pass too: minutes
# make example-c   the C library and a program that uses it, without Python (needs cmake, a C++20 compiler)
# make example-wasm   the same library for JavaScript, and such programs in Node (needs cmake, Emscripten, Node)
# make web   the npm package in web/, checked and tested (needs cmake, Emscripten, Node, npm)
# make check-slow   slow tests; kernels, damaged files and whole programs under sanitizers, threads, five minutes of each fuzzer
# make sanitize   the part of it under AddressSanitizer and UndefinedBehaviorSanitizer: native code, bindings, training kernels
# make check-cross  NEON and AVX-512 kernels, emulated: tests/cross/check.py says what it needs
# make fuzz   damaged and unusual files, each reader for SECONDS (needs clang++ and its libFuzzer)
# make docs   the documentation, into site/
# make coverage   all tests, with the branches that they take
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# ON makes compiler warnings errors, as CI does
WERROR ?= OFF
# Processes that run the tests; each trains small models, so more than one per core does not help. Each begins with a part
# of the tests and takes from the others when it is done: what tests of a file share is made once, not by each process.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist worksteal

# How CMake alone, without pip, is called, and which clang++ makes the fuzzer
CMAKE ?= cmake
CLANGXX ?= clang++
SECONDS ?= 60

NATIVE := $(wildcard native/*/*) $(wildcard native/*/*/*) $(wildcard cmake/*) CMakeLists.txt pyproject.toml

.PHONY: setup demo test test-long lint example-c example-wasm web web-built check-slow check-cross threads sanitize coverage docs clean
.PHONY: fuzz fuzz-python fuzzers fuzz-models fuzz-json fuzz-schema fuzz-resize atheris

setup: $(VENV)/.installed

$(VENV)/.installed: $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bhvit needs Python 3.10 or newer: make PYTHON=python3.12")'
	@echo 'Making $(VENV): minutes of downloading and compiling, up to 7 GB'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --config-settings=cmake.define.BHVIT_WARNINGS_AS_ERRORS=$(WERROR)
	touch $@

demo: setup
	$(BIN)/bhvit demo --out demo --force

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest $(PARALLEL)

test-long: setup
	$(BIN)/python -m pytest $(PARALLEL) -m long

# The engine, the C library and the training kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, in an
# environment of their own: kernels, damaged files, whole programs. Python itself is not sanitised, so its leaks are not
# looked for. For the training kernels' tests PyTorch comes from the environment of `make setup`.
SANITIZED := build/sanitized
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
UNDER = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 BHVIT_SANITIZE=address,undefined \
  $(SANITIZED)/bin/python -m pytest -p no:cacheprovider
check-slow: setup threads
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pip install --quiet 'ray[data]'
	BHVIT_TEST_RAY=1 $(BIN)/python -m pytest tests/integrations/test_ray.py
	$(MAKE) fuzz SECONDS=300
	$(MAKE) sanitize

sanitize: setup
	$(PYTHON) -m venv --clear $(SANITIZED)
	$(SANITIZED)/bin/python -m pip install --quiet . pytest filelock cmake \
	  --config-settings=build-dir=build/sanitizing --config-settings=cmake.define.BHVIT_SANITIZE=address,undefined \
	  --config-settings=cmake.define.BHVIT_OPTIMIZE=1
	$(UNDER) --ignore tests/native/test_wasm.py --ignore tests/native/test_compiler.py tests/native tests/runtime/test_session.py
	$(BIN)/python $(SITE) > "$$($(SANITIZED)/bin/python $(SITE))/training.pth"
	$(UNDER) tests/models/fused/test_kernel_arguments.py tests/models/fused/test_sign_products.py tests/models/fused/test_fused.py

check-cross: setup
	$(BIN)/python -m pip install --quiet ziglang
	$(BIN)/python tests/cross/check.py

coverage: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html

# Executes the notebooks; warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The extra `docs` without the package, which is there and would be compiled again.
$(VENV)/.docs: $(VENV)/.installed
	mkdir -p build
	$(BIN)/python -c "import importlib.metadata as m; print(*(r.split(';')[0] for r in m.requires('bhvit') \
	  if 'docs' in r.partition(';')[2] and not r.startswith('bhvit')), sep='\n')" > build/docs.txt
	$(BIN)/python -m pip install --quiet --requirement build/docs.txt
	touch $@

# The library is installed below build/ and found there by find_package, as by any other project.
example-c:
	$(CMAKE) -S . -B build/c -DCMAKE_BUILD_TYPE=Release -DBHVIT_WARNINGS_AS_ERRORS=$(WERROR)
	$(CMAKE) --build build/c --parallel $(JOBS)
	$(CMAKE) --install build/c --prefix build/c/prefix
	$(CMAKE) -S examples -B build/example-c -DCMAKE_PREFIX_PATH=$(CURDIR)/build/c/prefix
	$(CMAKE) --build build/example-c
	@echo 'build/example-c/classify MODEL.bhv PICTURE.ppm'

# Files a third-party web page needs, bhvit.js and bhvit.wasm as installed, and a script that uses them.
example-wasm:
	@command -v emcmake >/dev/null && command -v node >/dev/null || { echo 'needs Emscripten and Node: apt-get install emscripten nodejs'; exit 1; }
	emcmake $(CMAKE) -S . -B build/wasm -DCMAKE_BUILD_TYPE=Release -DBHVIT_WARNINGS_AS_ERRORS=$(WERROR)
	$(CMAKE) --build build/wasm --parallel $(JOBS)
	$(CMAKE) --install build/wasm --prefix build/wasm/prefix
	mkdir -p build/example-wasm
	cp examples/classify.mjs examples/segment.mjs build/wasm/prefix/lib/bhvit.js build/wasm/prefix/lib/bhvit.wasm build/example-wasm
	@echo 'node build/example-wasm/classify.mjs MODEL.bhv PICTURE.ppm'
	@echo 'node build/example-wasm/segment.mjs MODEL.bhv PICTURE.ppm LABELS.pgm'

# The npm package, with which `bhvit web` writes sites and the tests in a browser run.
web:
	@command -v npm >/dev/null || { echo 'needs npm: apt-get install nodejs npm'; exit 1; }
	cd web && npm install --no-audit --no-fund --silent
	$(MAKE) web-built

# The same where npm has installed what the build needs.
web-built:
	@command -v emcmake >/dev/null && command -v npm >/dev/null || { echo 'needs Emscripten, Node and npm: apt-get install emscripten nodejs npm'; exit 1; }
	cd web && CMAKE=$(CMAKE) npm run build && npm run lint && npm test

# Valid small files of every op and option; needs the environment of `make setup`.
CORPUS := build/corpus
$(CORPUS): setup tests/fuzz/corpus.py
	$(BIN)/python tests/fuzz/corpus.py $@

# Several sessions in several threads and forked processes, under ThreadSanitizer, with every instruction set's kernels.
threads: $(CORPUS)
	$(CMAKE) -S . -B build/threads -DBHVIT_TESTS=ON -DBHVIT_OPTIMIZE=1 -DBHVIT_SANITIZE=thread
	$(CMAKE) --build build/threads --parallel $(JOBS) --target bhvit_threads
	for model in conv-plain pooled-plain pooling-layer segment-batch; do TSAN_OPTIONS=die_after_fork=0 build/threads/bhvit_threads $(CORPUS)/models/$$model.bhv || exit 1; done

# Each target takes SECONDS: opening and running models, the JSON reader, the schema, resizing, and each of Python's
# readers, as `make fuzz-models` alone. Findings go to build/findings, logs to build/fuzz-logs (`python -m
# benchmarks.fuzzing.fuzzing build/fuzz-logs` makes a page of them); what the fuzzers found to be new stays in build/grown.
READERS := pictures zip tar parquet masks bodies journals lists recipes checkpoints both-readers
FUZZ = -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=build/findings/
LOGGED = >build/fuzz-logs/$(1).log 2>&1 || { tail -n 40 build/fuzz-logs/$(1).log; exit 1; }; tail -n 8 build/fuzz-logs/$(1).log
fuzz: fuzz-models fuzz-json fuzz-schema fuzz-resize fuzz-python
fuzz-python: $(READERS:%=fuzz-%)

fuzzers: $(CORPUS)
	$(CMAKE) -S . -B build/fuzz -DCMAKE_CXX_COMPILER=$(CLANGXX) -DBHVIT_TESTS=ON -DBHVIT_OPTIMIZE=1 \
	  -DBHVIT_SANITIZE=fuzzer-no-link,address,undefined
	$(CMAKE) --build build/fuzz --parallel $(JOBS) --target bhvit_fuzzers
	mkdir -p build/grown/models build/grown/json build/grown/schema build/grown/resize build/findings build/fuzz-logs

fuzz-models: fuzzers
	build/fuzz/bhvit_fuzz $(FUZZ) -max_len=300000 build/grown/models $(CORPUS)/models $(call LOGGED,models)

fuzz-json fuzz-schema: fuzz-%: fuzzers
	build/fuzz/bhvit_$* $(FUZZ) -max_len=20000 build/grown/$* $(CORPUS)/$* $(call LOGGED,$*)

fuzz-resize: fuzzers
	build/fuzz/bhvit_resize $(FUZZ) -max_len=4096 build/grown/resize $(call LOGGED,resize)

atheris: setup
	$(BIN)/python -m pip install --quiet atheris

$(READERS:%=fuzz-%): fuzz-%: atheris $(CORPUS)
	mkdir -p build/grown/$* build/findings build/fuzz-logs
	$(BIN)/python tests/fuzz/readers.py $* $(FUZZ) -max_len=1000000 build/grown/$* $(call LOGGED,$*)

clean:
	rm -rf $(VENV) build demo site htmlcov .coverage
