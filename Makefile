# `make demo` and `make test` do all the set-up; see the README.
# Python compiles what it imports by itself; compiling all of the packages takes half a minute.
# A machine that forbids it would compile torch anew at every start of every process.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test lint clean

demo: .venv/.requirements
	$(BIN)/python app.py $(ARGS)

test: .venv/.requirements-dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TwoLens needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv

# uv installs in a third of the time; where it cannot, pip does.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile
install = $(PIP) uv==0.13.9 && $(BIN)/uv pip install --quiet --python $(BIN)/python -r $(1) || $(PIP) -r $(1)

.venv/.requirements: requirements.txt | .venv/bin/python
	$(call install,requirements.txt)
	@touch $@

# It names all of requirements.txt too: one call, which resolves everything once.
.venv/.requirements-dev: requirements-dev.txt requirements.txt | .venv/bin/python
	$(call install,requirements-dev.txt)
	@touch .venv/.requirements $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
