# `make demo` and `make test` are all a newcomer needs; `make` alone lists the rest.
# TORCH=2.4 uses fairchem's own pins in an environment of its own: make TORCH=2.4 test
.DEFAULT_GOAL := help
.PHONY: help install demo test lint coverage bench constraints clean

TORCH ?= current
CONSTRAINTS_current := constraints.txt
OVERRIDES_current := overrides.txt
ENVIRONMENT_current := .venv
CONSTRAINTS_2.4 := constraints-torch2.4.txt
OVERRIDES_2.4 :=
ENVIRONMENT_2.4 := .venv-torch2.4

CONSTRAINTS := $(CONSTRAINTS_$(TORCH))
OVERRIDES := $(OVERRIDES_$(TORCH))
ENVIRONMENT := $(ENVIRONMENT_$(TORCH))
ifeq ($(ENVIRONMENT),)
$(error TORCH=$(TORCH) is not known: use TORCH=current or TORCH=2.4)
endif

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.10,$(shell \
	$(name) -c '$(SUPPORTED)' 2>/dev/null && echo $(name))))

BIN := $(ENVIRONMENT)/bin
STAMP := $(ENVIRONMENT)/.installed
WORKERS ?= 2
RUN_TESTS = OMP_NUM_THREADS=1 WANDB_MODE=offline $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--cov --cov-report=term --durations=5 $(TESTS)

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo "  options           TORCH=2.4 (fairchem's own pins), PYTHON=python3.12, WORKERS=4"

install: $(STAMP)  ## make the environment and install everything, pinned

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS) $(OVERRIDES) scripts/make_environment.sh
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "error: no Python 3.10, 3.11 or 3.12 with venv found: install one," \
	       "or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@bash scripts/make_environment.sh $(ENVIRONMENT) $(PYTHON) $(CONSTRAINTS) $(OVERRIDES)
	@touch $@

demo: $(STAMP)  ## train supervised, PIWSL and trapezoid models on aspirin and compare them
	@$(BIN)/piwsl demo

test: lint  ## check style and import order, run all tests, show line coverage
	@$(RUN_TESTS)

lint: $(STAMP)  ## check style and import order
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/lint-imports --no-cache

coverage: $(STAMP)  ## run all tests, write line coverage to htmlcov/
	@$(RUN_TESTS) --cov-report=html

bench: $(STAMP)  ## measure training steps and conversion against stock fairchem
	@$(BIN)/piwsl data convert embedded aspirin --n-train 100 --out data/embedded_aspirin/n100
	@$(BIN)/python benchmarks/training_step.py --data data/embedded_aspirin/n100
	@$(BIN)/python benchmarks/conversion.py

constraints: $(STAMP)  ## renew the pins of both environments
	@bash scripts/renew_constraints.sh $(BIN)/uv

clean:  ## remove environments, caches and reports (data/ and runs/ stay)
	rm -rf .venv .venv-torch2.4 build dist *.egg-info htmlcov .coverage .coverage.* \
	  .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
