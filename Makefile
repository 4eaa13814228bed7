# The two commands of the README: `make run` and `make test`. Both set up all they need, in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
APP    ?= examples/hello.lua
PORT   ?= 8000

.PHONY: run test lint clean

run: $(VENV)/.runtime
	$(BIN)/greenlua run $(APP) --port $(PORT)

test: $(VENV)/.development lint
	@.ci/packages 'command -v openssl' openssl
	@.ci/packages --wanted 'command -v redis-server' redis-server 'ls /usr/lib/postgresql/*/bin/initdb' postgresql
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.development
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || .ci/packages false python3
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "greenlua needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@.ci/packages '$(PYTHON) -c "import ensurepip"' python3-venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e .
	@touch $@

$(VENV)/.development: $(VENV)/bin/python pyproject.toml .ci/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
