# `make build` on a fresh machine: make the environment, install, build the embedded default for a phone.
# PYTHON=python3.12 make venv    takes another interpreter (3.11 or newer, with its venv module).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: venv build test lint clean

venv: $(INSTALLED)

# Made anew when what it depends on changes; an interrupted installation leaves no stamp and is resumed.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: make PYTHON=python3.11 venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

build: venv
	$(BIN)/edgeport build --target arm64

# Two processes of one thread each: small networks run slower on several threads, and results do not depend on them.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint docker/*

clean:
	rm -rf $(VENV) build dist edgeport-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find edgeport tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
