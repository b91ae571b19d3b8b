# Every target sets up what it needs: a virtual environment in .venv with the package and its dependencies.
# PYTHON picks the interpreter of the environment, DEMO passes options on: make demo DEMO="--epochs 2"

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train ResNet-18 + FPN on the built-in shapes, evaluate, draw samples"
	@echo "make test   run the test suite"
	@echo "make check  lint, types and tests"
	@echo "make mutants  change the core in many small ways; name the changes that no test notices (about an hour)"
	@echo "make clean  remove the environment in $(VENV)"

demo: $(STAMP)
	$(BIN)/python tools/train_det.py $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

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

clean:
	rm -rf $(VENV)
