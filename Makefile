# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help install run test test-bench coverage test-compose lint types contracts check bench format docs demo-model exactness clean

PYTHON ?= python3
BIN := .venv/bin
T ?=
# files in the order of the folders: the longest tests first; Hypothesis tries as many examples as CI
PYTEST := HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} $(BIN)/python -m pytest \
	--numprocesses 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing (about two minutes the first time)"
	@$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "installing what tests and checks need"
	@$(PIP) --editable '.[dev]'
	@touch $@

install: .venv/installed-dev  ## make .venv with everything in it

run: .venv/installed  ## start Postgres, predictor, engine and gateway on http://127.0.0.1:8000
	@exec $(BIN)/lmaas serve

test: .venv/installed-dev  ## run the tests on two processes; T=tests/unit/scheduling narrows
	@$(PYTEST) $(or $(T),tests/e2e tests/integration tests/unit)

test-bench: .venv/installed-dev  ## run the benchmarks' own tests, which `make test` runs too
	@$(PYTEST) tests/unit/benchmarks

coverage: .venv/installed-dev  ## lines and branches that tests reach, started processes too; T narrows
	@$(PYTEST) --cov --cov-report=term --cov-report=html:build/coverage $(or $(T),tests/e2e tests/integration tests/unit)

test-compose:  ## build the images, start compose.yaml, ask, kill the engine, ask again
	@$(PYTHON) tests/compose/check.py

lint: .venv/installed-dev  ## ruff: rules and format; words that are to be avoided
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m checks.words

format: .venv/installed-dev  ## let ruff format and mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: .venv/installed-dev  ## mypy, strict
	@$(BIN)/mypy

contracts: .venv/installed-dev  ## the arrows between packages
	@$(BIN)/lint-imports

check: lint types contracts test  ## what CI runs

bench: .venv/installed  ## measure a figure: F=E1 E3 P1 P2 P3 S0 S2 S3 S5 decision prefix step; A='--rounds 1' passes options
	@$(BIN)/python -m benchmarks $(F) $(A)

docs: .venv/installed  ## write docs/configuration.md and docs/errors.md
	@$(BIN)/lmaas configuration > docs/configuration.md
	@$(BIN)/lmaas errors > docs/errors.md

demo-model: .venv/installed  ## train the shipped demo model again (about an hour on two cores)
	@$(BIN)/python -m engine.demo.train engine/demo/lmaas-demo

exactness: .venv/installed  ## exact match of the demo model on unseen inputs, by job
	@$(BIN)/python -m engine.demo.exactness engine/demo/lmaas-demo

clean:  ## remove what the tools leave behind; data in .lmaas stays
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build *.egg-info
