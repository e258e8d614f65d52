# Two commands for a new machine: `make rehearse` and `make test`. Both set up .venv first.
VENV ?= .venv
PYTHON ?= python3
OUT ?= out
RUN := $(VENV)/bin/

.PHONY: help setup rehearse test test-peers lint benchmarks docs clean

help:
	@echo "make rehearse    the whole procedure on a real CT with simulated devices; results in $(OUT)/"
	@echo "make test        every check that needs no Slicer"
	@echo "make test-peers  as root: installs the OpenIGTLink programs that some tests need (Debian, Ubuntu)"
	@echo "make lint        style, types and the import contract only"
	@echo "make benchmarks  the figures of docs/validation.md"
	@echo "make clean       remove .venv and results"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements/constraints.txt Utilities/set-up.sh
	sh Utilities/set-up.sh "$(VENV)" "$(PYTHON)"

rehearse: $(VENV)/.ready
	@exec $(RUN)sacroplasty rehearse --out "$(OUT)"

lint: $(VENV)/.ready
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

test: lint
	$(RUN)pytest

test-peers:
	sh Utilities/install-test-peers.sh

benchmarks: $(VENV)/.ready
	$(RUN)python Testing/benchmarks/run.py

docs: $(VENV)/.ready
	$(RUN)python -m pip install --quiet -c requirements/constraints.txt -e '.[docs]' && $(RUN)mkdocs build --strict

clean:
	rm -rf "$(VENV)" "$(OUT)"
