# Verbs of the repository. Everything happens in $(VENV); PYTHON, VENV, WORKERS (of the tests), DANCEOPD_CUDA and
# TORCH_INDEX (the address of the package index that torch comes from, where it is not the usual one) may be set from outside.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
NATIVE := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench clean

help:
	@echo "make demo    build, distil the shipped experts into one student, show the scoreboard (minutes)"
	@echo "make test    build and run every test that this machine can run"
	@echo "make lint    ruff, mypy, clang-format: report"
	@echo "make format  ruff, clang-format: repair"
	@echo "make docs    write docs/cli and docs/config.md anew from the help of the commands and settings"
	@echo "make bench   kernels against eager, hand-tuned eager and torch.compile"
	@echo "make clean   remove the environment and all build products"

# torch goes first and pinned: asked for by a range, pip may take a build for hardware that is not there.
$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	$(PIP) scikit-build-core pybind11 cmake ninja
	@touch $@

$(VENV)/package.stamp: $(VENV)/torch.stamp $(NATIVE)
	$(PIP) --no-build-isolation --config-settings=build-dir=build/editable --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/package.stamp
	$(PIP) --no-build-isolation --config-settings=build-dir=build/editable --editable ".[dev]"
	@touch $@

demo: $(VENV)/package.stamp
	$(BIN)/danceopd demo

# One OpenMP thread each: teams of threads spin against each other when they are more than the cores. The tests of a
# file stay together, since they share what was costly to make.
test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/ops/cuda_on_host/*')

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*' 'tests/ops/cuda_on_host/*')

docs: $(VENV)/package.stamp
	$(BIN)/python docs/generate.py

bench: $(VENV)/package.stamp
	$(PIP) --no-build-isolation --config-settings=build-dir=build/editable --editable ".[bench]"
	$(BIN)/python benchmarks/kernel_bench.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
