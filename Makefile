# Every target works in a fresh clone: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed first and by itself, so that nothing else chooses the torch build for you.
TORCH ?= torch==2.13.0
STORE ?= .hatstand/store
HOST ?= $(or $(HATSTAND_HOST),127.0.0.1)
PORT ?= $(or $(HATSTAND_PORT),8000)
# Test processes: as many as the machine has cores to spare.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install serve demo test lint types format check unit slow openapi clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in {(3, 11), (3, 12)} and f"Hatstand needs Python 3.11 or 3.12, found {v[0]}.{v[1]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml clients/python/pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[embedded,experiments,mcp,dev]' --editable clients/python
	$(BIN)/python -m pip check
	@touch $@

install: $(VENV)/.installed-dev  ## Make .venv with everything: service, jobs, tests, benchmarks

demo: $(VENV)/.installed  ## Build the demo shop, its models and their indexes, unless the store has a live bundle
	$(BIN)/python -m offline.demo --store $(STORE)

serve: demo  ## From nothing to the first recommendation: demo if the store is empty, then the service
	HATSTAND_STORE=$(STORE) HATSTAND_HOST=$(HOST) HATSTAND_PORT=$(PORT) $(BIN)/python -m service

lint: $(VENV)/.installed-dev  ## Style and unused code (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## Static types (mypy, strict)
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

unit: $(VENV)/.installed-dev  ## The tests alone
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# One after the other: some of them measure times.
slow: $(VENV)/.installed-dev  ## The long tests too
	$(BIN)/python -m pytest -m 'not gpu'

test: lint types unit  ## Lint, types and all tests that need no accelerator

check: test  ## The same as test: what CI runs

openapi: $(VENV)/.installed-dev  ## Rewrite docs/openapi.json
	$(BIN)/python -m service.http.openapi > docs/openapi.json

clean:  ## Remove caches (not the store, not .venv)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
