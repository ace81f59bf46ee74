# The two commands of the README. Both make their own virtual environment first.
# The first interpreter that runs and is of a supported version; a name on PATH may be a stub of a version manager.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
    $$p -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: sweep test lint docs clean

sweep: $(STAMP)
	$(BIN)/tuner sweep

# Two processes share the cores: threads that wait must sleep, and numpy's small matrices need no second one. Hundreds of
# processes import the same modules, so those are compiled once, whatever the environment says.
test: export OPENBLAS_NUM_THREADS := 1
test: export OMP_WAIT_POLICY := passive
test: $(STAMP)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadgroup --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed; give one with make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing into $(VENV): several GB, some minutes, and pip says nothing meanwhile"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gpu,serve,docs,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
