SHELL := /bin/bash
.DEFAULT_GOAL := help

PROFILE ?= demo
SEED ?= 0
JOBS ?= 1
RUN_DIR ?=
DATA_ROOT ?=
OVERRIDES ?=
NOTEBOOKS ?=
CLUSTER ?=
GPUS ?=
TORCH_INDEX ?=
PYTHON ?=
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETTINGS = profile=$(PROFILE) seed=$(SEED) $(if $(RUN_DIR),run_dir='$(RUN_DIR)') $(if $(DATA_ROOT),data_root='$(DATA_ROOT)') \
	$(if $(OVERRIDES),overrides='$(OVERRIDES)') $(if $(NOTEBOOKS),notebooks='$(NOTEBOOKS)') $(if $(GPUS),gpus=$(GPUS))
# The stages lock themselves, so runs of other profiles may share the folder; a file cut short by a kill is made again.
QUIETLY := --quiet host rules progress reason
SNAKEMAKE = $(BIN)/python -m snakemake --rerun-triggers mtime --rerun-incomplete --nolock $(if $(CLUSTER),--profile '$(CLUSTER)') \
	--config $(SETTINGS)

.PHONY: help setup reproduce plan-stages plan redraw report lint test test-slow lab browser clean clean-runs

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  Settings: PROFILE=smoke|demo|gpu|paper (now $(PROFILE)), SEED=$(SEED), JOBS=$(JOBS) notebooks at once, RUN_DIR=, DATA_ROOT=a COCO-panoptic"
	@echo "  folder, OVERRIDES=section.key=value,..., NOTEBOOKS=02_autoencoder,... (with those they need), CLUSTER=slurm (a Snakemake profile),"
	@echo "  GPUS=8 (of a machine there)."
	@echo "  Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu makes the first installation smaller by gigabytes."

setup: $(STAMP) ## Install into .venv; every other command does so itself
	@echo "$(VENV) is ready"

# The stamp holds a checksum, so that a checkout which only renews the files' dates installs nothing and needs no network.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ "$$(cat pyproject.toml constraints.txt | cksum)" = "$$(cat $@ 2>/dev/null)" ]; then touch $@; exit 0; fi; \
	if [ ! -x $(BIN)/python ]; then \
		for candidate in $(if $(PYTHON),'$(PYTHON)',python3.11 python3.12 python3.13 python3); do \
			"$$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$candidate && break; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "make: no Python 3.11 or newer with venv was found. Install one (Debian: apt-get install python3-venv)," \
				"or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found ($$($$found --version))"; \
		"$$found" -m venv $(VENV); \
	fi; \
	echo "Installing the packages of constraints.txt into $(VENV) (some minutes the first time)"; \
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') torch; \
	$(PIP) install -q -c constraints.txt -e '.[notebooks,test]'; \
	cat pyproject.toml constraints.txt | cksum > $@

reproduce: plan-stages ## Make data, train, evaluate; write tables/PROFILE and figures/PROFILE. Goes on where it stopped
	@$(SNAKEMAKE) --cores $(JOBS) $(QUIETLY)

plan-stages: $(STAMP)
	@$(BIN)/python -m ldmseg_lib.reproduction plan --profile $(PROFILE) --seed $(SEED) $(if $(RUN_DIR),--run-dir '$(RUN_DIR)') \
		$(if $(DATA_ROOT),--data-root '$(DATA_ROOT)') $(if $(OVERRIDES),--overrides '$(OVERRIDES)') \
		$(if $(NOTEBOOKS),--notebooks '$(NOTEBOOKS)')

plan: plan-stages ## Say what `make reproduce` would run, and why
	@$(SNAKEMAKE) --dry-run --quiet host

redraw: $(STAMP) ## Execute the notebooks again: finished computations are loaded, tables and figures drawn anew
	@$(SNAKEMAKE) --cores $(JOBS) $(QUIETLY) --forceall

report: $(STAMP) ## Build the static site of a run from its executed notebooks: site/PROFILE/index.html
	@$(BIN)/python -m ldmseg_lib.reproduction report '$(or $(RUN_DIR),runs/$(PROFILE)$(if $(filter-out 0,$(SEED)),-seed$(SEED)))'

lint: $(STAMP) ## Check style, layout and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/python -m mypy --no-error-summary

test: lint ## Check style and types, and run the tests (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: lint ## Run the tests that take long as well
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lab: $(STAMP) ## Open JupyterLab on the notebooks
	@$(BIN)/python -m jupyter lab notebooks

browser: ## Install Chromium for the browser tests (Debian, Ubuntu)
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "make: apt-get is not here; install Chromium or Chrome yourself for the browser tests." >&2; exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
		echo "make: run as root: apt-get install -y chromium" >&2; exit 1; \
	fi; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium

clean: ## Remove .venv and caches; runs/ and data/ stay
	@rm -rf $(VENV) .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: ## Remove runs/ and data/: every trained model and made data set
	@rm -rf runs data
