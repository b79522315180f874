# A fresh machine with Python 3.11+ and a package index is all that `make demo` and `make test` need:
# each sets up .venv with the pinned versions first, and again whenever a pin or a dependency changes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format docs bench reliability clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with everything, pinned

# torch goes first and by itself: it is the largest, and every machine takes the build that its index offers.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python=; for p in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	  if new_enough "$$p"; then python="$$p"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "$(PYTHON) is missing or older than 3.11: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; fi; \
	if [ "$$python" != "$(PYTHON)" ]; then echo "$(PYTHON) is missing or older than 3.11: using $$python instead"; fi; \
	if ! { new_enough $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1; }; then \
	  echo "Creating $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); fi
	@echo "Installing torch (the largest part) ..."
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@echo "Installing fastslow and the rest (some small packages are compiled) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,trl]'
	@touch $@

demo: setup ## the main job on the embedded model: FST beside RL, a table and a plot
	@$(BIN)/fastslow demo

test: setup ## lint, then every test, the ones with the embedded model included
	@$(BIN)/ruff check .
	@$(BIN)/python -m pytest

test-fast: setup ## the tests that need no model
	@$(BIN)/python -m pytest -m "not real"

check: setup ## lint and formatting, without changing a file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## format the code and mend what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## write docs/configuration.md anew from the config's own fields
	@$(BIN)/python docs/make_configuration.py

bench: setup ## speed: gradient, sampling, profile, scaling, a step beside TRL (about an hour), the ledger
	@$(BIN)/python benchmarks/gradient.py --write
	@$(BIN)/python benchmarks/products.py --write
	@$(BIN)/python benchmarks/sampling.py --bf16 --write
	@$(BIN)/python benchmarks/profile_step.py --write
	@$(BIN)/python benchmarks/scaling.py --write
	@$(BIN)/python benchmarks/step.py --rounds 2 --write
	@$(BIN)/python benchmarks/step.py --rounds 1 --cold --context-tokens 1024 --trl-micro-batch 4 --write
	@$(BIN)/python benchmarks/ledger.py

reliability: setup ## kill and break runs, and write what came of it into docs/reliability.md
	@$(BIN)/python benchmarks/kill.py --kills 50 --seed 0 --report docs/reliability.md
	@$(BIN)/python benchmarks/faults.py --report docs/reliability.md

clean: ## remove .venv and caches; runs/ and the cached models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
