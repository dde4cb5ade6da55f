# make demo   set up, then train, pack, verify and report on the digits (needs Python 3.10+, a C++20 compiler)
# make test   set up, then linters, type checks, the layer check and all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# ON makes compiler warnings errors, as CI does
WERROR ?= OFF
# Processes that run the tests; each trains small models, so more than one a core does not help
JOBS ?= 2

NATIVE := $(wildcard native/*) CMakeLists.txt pyproject.toml

.PHONY: setup demo test lint check-slow clean

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

check-slow: setup
	$(BIN)/python -m pytest -n $(JOBS) -m "slow or not slow"

clean:
	rm -rf $(VENV) build demo
