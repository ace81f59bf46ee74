# The two commands of the README. Both make their own virtual environment first.
PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: sweep test lint clean

sweep: $(STAMP)
	$(BIN)/tuner sweep

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gpu,serve,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
