# `make repro` and `make test` are all a fresh machine needs; `make help` lists the rest.
SHELL := /bin/bash
# In the order of tests/conftest.py: the longest files first, so that the two workers end together.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
PYTHON ?= python3
PIP_ARGS ?=
JOBS ?=
THRESHOLD ?= 0.7
VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
# glibc gives large blocks back to the system after each use; making their pages anew is a twentieth of a training step.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 4294967296

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

env: $(STAMP) ## the environment in .venv, from the complete lock; dlskip itself as it stands here
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, found $$($(PYTHON) --version)"; \
	    echo "  mend: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing the locked environment into $(VENV) (some minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c requirements.lock torch
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps -r requirements.lock
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: $(STAMP) ## the whole pipeline, raw data to report; JOBS=1 runs one stage at a time
	@dlskip pipeline run $(if $(JOBS),--jobs $(JOBS))
	@dlskip pipeline show

smoke: $(STAMP) ## the same pipeline on tiny random models, in a scratch copy (some 3 minutes)
	@python -m pytest -q -s -n 0 tests/workflow/test_smoke.py -k 'every_stage_runs or reports'

try: $(STAMP) ## watch a trained model skip layers, and how fast it is here (a minute)
	@dlskip try

check: lint ## lint, types and the fast tests (< 2 minutes)
	@$(PYTEST) -m 'not slow and not workflow and not torture and not exhaustive'

test: lint ## lint, types and the tests of every property (some ten minutes)
	@$(PYTEST) -m 'not exhaustive'

test-all: lint ## the same with many more examples of each: once a week, or after a change of the core
	@DLSKIP_TEST_ALL=1 $(PYTEST)

torture: $(STAMP) ## kills, faults, broken and hostile input at random, counted in reports/torture.md (20 minutes); SEED=1
	@counts=$$(mktemp -d); DLSKIP_TORTURE=$$counts DLSKIP_TORTURE_SEED=$(or $(SEED),0) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
	  python -m pytest -n 2 --dist worksteal -m torture tests/torture; code=$$?; \
	  DLSKIP_TORTURE_SEED=$(or $(SEED),0) python -m tests.torture.table $$counts > reports/torture.md; \
	  cat reports/torture.md; rm -r $$counts; exit $$code

lint: $(STAMP) ## style and types alone
	@ruff check .
	@ruff format --check .
	@mypy

recipe: $(STAMP) ## apply a recipe onto params.yaml, e.g. make recipe R=glue; R=embedded is the default
	@dlskip pipeline recipe $(R) $(SET) $(if $(FORCE),--force)

report: $(STAMP) ## redraw tables, figures and page from committed results, without training; R=wide: another recipe's
	@dlskip pipeline report $(R)

readme: $(STAMP) ## put the headline table into README.md
	@dlskip pipeline show --readme

reference: $(STAMP) ## keep this run's results and report as reports/reference/<recipe>
	@dlskip pipeline keep

pretrained: $(STAMP) ## make dlskip/pretrained/ anew from this run's weights
	@dlskip release artifacts/ours/smollm2-0 dlskip/pretrained/smollm2-135m --dtype bfloat16 --threshold $(THRESHOLD) \
	  --about dlskip/pretrained/smollm2-135m.md

docs: $(STAMP) ## the documentation as a site, in site/
	@python -c 'import mkdocs, mkdocstrings' 2> /dev/null || \
	  python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-build-isolation --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict && echo "written: site/index.html"

clean: ## remove resumable checkpoints and caches (results stay)
	@rm -rf .resume .jobs .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help env try check test test-all torture lint repro smoke recipe report readme reference pretrained docs clean
