# make demo   set up, then train, pack, verify and report on the digits (needs Python 3.10+, a C++20 compiler)
# make test   set up, then linters, type checks, the layer check and all tests
# make check-slow   kernels, damaged files and whole programs under sanitizers
# make check-cross  NEON and AVX-512 kernels, emulated: tests/cross/check.py says what it needs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# ON makes compiler warnings errors, as CI does
WERROR ?= OFF
# Processes that run the tests; each trains small models, so more than one a core does not help
JOBS ?= 2

NATIVE := $(wildcard native/*) CMakeLists.txt pyproject.toml

.PHONY: setup demo test lint check-slow check-cross clean

setup: $(VENV)/.installed

$(VENV)/.installed: $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bhvit needs Python 3.10 or newer: make PYTHON=python3.12")'
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
	$(BIN)/python -m pytest -n $(JOBS)

# The engine built with AddressSanitizer and UndefinedBehaviorSanitizer, in an environment of its own:
# kernels, damaged files, whole programs. Python itself is not sanitised, so its leaks are not looked for.
SANITIZED := build/sanitized
check-slow:
	$(PYTHON) -m venv $(SANITIZED)
	$(SANITIZED)/bin/python -m pip install --quiet . pytest hypothesis \
	  --config-settings=build-dir=build/sanitizing --config-settings=cmake.define.BHVIT_SANITIZE=address,undefined
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(SANITIZED)/bin/python -m pytest -p no:cacheprovider tests/native tests/runtime/test_session.py

check-cross: setup
	$(BIN)/python -m pip install --quiet ziglang
	$(BIN)/python tests/cross/check.py

clean:
	rm -rf $(VENV) build demo
