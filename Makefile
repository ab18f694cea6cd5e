# The whole developer interface. POSIX make and sh; everything is installed into .venv.

PYTHON ?= python3
# Processes that run tests: most wait for servers and clocks. More than the cores bear, and those that watch clocks fail.
JOBS ?= 2
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help try test lint types docs bench bench-engines check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo "Another Python: make try PYTHON=python3.12"

try: .venv/.try ## ask the local model a question (no key, nothing configured)
	@$(BIN)/slm ask "What is the capital of Japan?" </dev/null

test: .venv/.dev ## run all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: .venv/.dev ## check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: .venv/.dev ## check types, with mypy and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

docs: .venv/.dev ## build the site into site/; a warning fails it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/.made ## measure slmclient beside its peers, about 20 minutes; BENCH=--quick: about 5
	@$(BIN)/python benchmarks/compare $(BENCH)

bench-engines: .venv/.dev ## measure engines in the process against their own loops, about 25 minutes
	@$(BIN)/python benchmarks/engines.py

check: test lint types docs ## all of these, as CI does

clean: ## remove .venv and all that the tools left; results of benchmarks stay
	rm -rf .venv site dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache benchmarks/.environments
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The files below only mark what is installed. Both installs are editable: what runs is the source in this checkout.

.venv/.made:
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON) here. Name one: make try PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "slmclient needs Python 3.11 or later; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make try PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv
	@touch $@

.venv/.try: .venv/.made pyproject.toml
	@echo "Installing slmclient with its local engine and its command into .venv, about 10 seconds …"
	@$(PIP) install -e '.[local,cli]'
	@touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	@echo "Installing slmclient with everything for development into .venv, about 40 seconds …"
	@$(PIP) install --upgrade pip
	@$(PIP) install -e '.[all]' --group dev -c constraints.txt
	@touch $@ .venv/.try
