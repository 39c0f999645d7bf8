# Everything lives in .venv; nothing needs root, Docker or a running server.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
# The lock pins every package, those that build ours included.
INSTALL = PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo drill soak bench test check format docs serve clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.demo ## Run the whole platform for about two minutes and report
	$(BIN)/python -m loadtest demo

drill: .venv/.test ## Break one part after the other of the platform on Kafka, Valkey and PostgreSQL, and report
	$(BIN)/python -m loadtest drill

soak: .venv/.test ## Hold one bidder under steady load for ten minutes; fails if its memory grows
	$(BIN)/python -m loadtest soak --seconds 600

bench: .venv/.test ## Measure whole units of the bid path, in a catalogue of 100, 10,000 and 50,000 line items
	$(BIN)/python -m pytest -o addopts=--import-mode=importlib tests/bench/bench_units.py --timeout 0 \
		--benchmark-columns=min,median,stddev,rounds --benchmark-sort=name

serve: .venv/.demo ## Run the platform (bidder, API, workers) until Ctrl-C, with config/dsp.toml
	$(BIN)/python -m dsp --config config/dsp.toml up

# Files by name, so that the short ones of tests/unit come last and all workers end together: xdist's own order has
# last those of the fewest tests, which are the longest.
test: .venv/.test ## Run all tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/.test ## Run ruff, mypy --strict and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.test ## Write the reference pages in docs/reference from the code
	$(BIN)/python docs/generate.py

clean: ## Remove the environment and all data
	rm -rf .venv var

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml requirements.lock
	@echo "Installing into .venv (a minute or two, once) ..."
	$(INSTALL) --editable '.[cpu,api,train]'
	@touch $@

.venv/.test: .venv/bin/python pyproject.toml requirements.lock
	@echo "Installing into .venv (a minute or two, once) ..."
	$(INSTALL) --editable '.[cpu,api,production,trace,train,load,deploy,test]'
	@touch $@ .venv/.demo
