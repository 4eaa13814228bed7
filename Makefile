# The two commands of the README: `make run` and `make test`. Both set up all they need, in .venv.
# `make load`: users who check every answer, with locust, for a minute or LOAD_SECONDS=600; `make bench`: measures
# docs/performance.md anew (loadtests/README.md). `make screenshot`: takes docs/docs-page.png anew.
# `make soak`: servers under load while everything goes wrong at random, for 10 minutes or SECONDS=60 (loadtests/README.md).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
APP    ?= examples/hello.lua
PORT   ?= 8000
SECONDS ?= 600
LOAD_SECONDS ?= 60
NGINX_LUA := /usr/lib/nginx/modules/ngx_http_lua_module.so

.PHONY: run test screenshot soak load bench lint clean

run: $(VENV)/.runtime
	$(BIN)/greenlua run $(APP) --port $(PORT)

test: $(VENV)/.development lint
	@.ci/packages 'command -v openssl' openssl
	@.ci/packages --wanted 'command -v redis-server' redis-server 'ls /usr/lib/postgresql/*/bin/initdb' postgresql \
		'command -v chromium' chromium 'command -v wrk' wrk
	$(BIN)/python -m pytest -n 2

screenshot: $(VENV)/.development
	@.ci/packages 'command -v chromium' chromium
	$(BIN)/python -m tests.screenshot docs/docs-page.png

soak: $(VENV)/.development
	@.ci/packages --wanted 'command -v redis-server' redis-server 'ls /usr/lib/postgresql/*/bin/initdb' postgresql
	$(BIN)/python -m loadtests.soak --seconds $(SECONDS)

load: $(VENV)/.load
	$(BIN)/python -m loadtests.load --seconds $(LOAD_SECONDS)

bench: $(VENV)/.bench
	@.ci/packages --wanted 'command -v wrk' wrk 'test -e $(NGINX_LUA)' 'nginx-light libnginx-mod-http-lua lua-cjson'
	$(BIN)/python -m loadtests.compare --output docs/performance --page docs/performance.md
	$(BIN)/python -m loadtests.ablation --output docs/performance --page docs/performance.md
	$(BIN)/python -m loadtests.overload --output docs/performance --page docs/performance.md

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

$(VENV)/.load $(VENV)/.bench: $(VENV)/.%: $(VENV)/bin/python pyproject.toml .ci/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[$*]'
	@touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
