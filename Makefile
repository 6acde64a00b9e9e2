# Every command works on a fresh machine with Python >= 3.11, pip and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo.csv --data-dir data/demo --backend sandbox --batch-size 8
# Tests wait more than they compute, so more of them than cores run at once.
JOBS ?= 4
PARALLEL := --numprocesses $(JOBS) --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long ui check format lock clean

help: ## Show these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(BIN)/.installed ## Build .venv from the pinned, hashed lock file.

$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 install")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Run the shipped manifest end to end against the sandbox. Costs nothing.
	@$(BIN)/kontext run $(DEMO)
	@echo
	@$(BIN)/kontext review --data-dir data/demo --out data/demo/review.html
	@echo
	@# Status 1: a row was left out, as the sandbox keeps no input pictures of the web.
	@$(BIN)/kontext export --data-dir data/demo --format imagefolder --out data/demo/export --validation 0.1 || test $$? -eq 1
	@echo
	@echo 'Review the pictures:  $(BIN)/kontext review --data-dir data/demo   (or open data/demo/review.html)'
	@echo "Load the export:      $(BIN)/python -c \"import datasets; print(datasets.load_dataset('data/demo/export', 'default'))\""
	@echo 'See it in Dagster:    make ui'
	@echo 'make demo again generates nothing.'

test: install ## Run the tests, several at a time.
	$(BIN)/python -m pytest $(PARALLEL)

test-long: install ## Run the long tests: kill -9 sweeps, large plans, real backfills.
	$(BIN)/python -m pytest $(PARALLEL) -m 'long and not alone'
	$(BIN)/python -m pytest -m 'long and alone'

ui: install ## Open the Dagster UI on this project.
	@$(BIN)/kontext ui $(DEMO)

check: install ## Lint, format check, strict types, layers, dependencies, limits.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/python -m pytest tests/architecture

format: install ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Renew requirements.lock from pyproject.toml (needs uv). UPGRADE=--upgrade takes the newest versions.
	uv pip compile $(UPGRADE) pyproject.toml --group dev --group build --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-header --quiet --output-file requirements.lock

clean: ## Remove what was built here; keeps data.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
