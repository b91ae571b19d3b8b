# Every target sets up what it needs: a virtual environment in .venv with the package and its dependencies.
# make test-portable takes an hour: CPUs and numbers of threads round differently, and tests must not depend on it.
# PYTHON picks the interpreter of the environment, DEMO passes options on: make demo DEMO="--epochs 2"

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# A file is one worker's, which shares its fixtures; tests/conftest.py puts the slowest files first.
# The death of a worker ends the run, which would wait for that worker's tests for ever.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: demo test test-portable check mutants docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train ResNet-18 + FPN on the built-in shapes, evaluate, draw samples"
	@echo "make test   run the test suite"
	@echo "make test-portable  the tests that compare numbers, as on older CPUs and on 1, 2 and 4 threads"
	@echo "make check  lint, types and tests"
	@echo "make mutants  change the core in many small ways; name the changes that no test notices (about an hour)"
	@echo "make docs   build the documentation site into build/site"
	@echo "make clean  remove the environment in $(VENV)"

demo: $(STAMP)
	$(BIN)/python tools/train_det.py $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

NUMBERS = $$(grep -rlE 'tolerances|approx\(|allclose|assert_close|torch\.equal' tests --include='test_*.py')
AVX2    = ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
SSE     = ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41

test-portable: $(STAMP)
	@set -e; for threads in 1 2 4; do for cpu in "" "$(AVX2)" "$(SSE)"; do \
		echo "== OMP_NUM_THREADS=$$threads $$cpu"; \
		env OMP_NUM_THREADS=$$threads $$cpu $(BIN)/python -m pytest $(PARALLEL) $(NUMBERS); \
	done; done

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PARALLEL)

mutants: $(STAMP)
	$(BIN)/python tests/mutation/run.py

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than Python 3.10; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet
	@echo "the site is in build/site/index.html"

clean:
	rm -rf $(VENV)
