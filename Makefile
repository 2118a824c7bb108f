# `make help` lists the targets; README.md explains them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LUIGI := $(BIN)/luigi --module luigi_tasks
PYTHON ?=

# Variables of the run targets; `make uni WSI_DIR=/data/slides JOB_DIR=/data/job GPUS="0 1"`.
WSI_DIR ?=
JOB_DIR ?= ./job
GPUS ?= 0
SEGMENTER ?= otsu
TASK ?= all
ARGS ?=

##@ Work on the project

help: ## Show this list (the default target)
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9_-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nRun a cohort (the encoder, its magnification and its patch size are set by the target)\n'
	@$(foreach name,$(RUNS),printf '  make %-15s %s\n' '$(name)' '$(RUN_$(name))';)
	@printf '\n  Variables: WSI_DIR (required), JOB_DIR=%s, GPUS="%s" (space separated; -1: CPU),\n' '$(JOB_DIR)' '$(GPUS)'
	@printf '  SEGMENTER=%s, TASK=%s, ARGS="--skip-errors ..." (any further option).\n' '$(SEGMENTER)' '$(TASK)'
	@printf '  An encoder or segmenter that this version lacks is refused in one line before a slide is opened.\n'

setup: $(STAMP) ## Make .venv/ and install the pinned set and the project, editable

# Python is looked for only when something has to be installed: PYTHON if given, else 3.11 first.
$(STAMP): pyproject.toml constraints.txt
	@supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; \
	if ! $(BIN)/python -c "$$supported" 2>/dev/null || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  chosen=''; \
	  for candidate in $(if $(PYTHON),'$(PYTHON)',python3.11 python3.12 python3.13 python3.10 python3); do \
	    if "$$candidate" -c "$$supported" 2>/dev/null; then chosen="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo 'error: $(if $(PYTHON),PYTHON=$(PYTHON) is no Python 3.10 to 3.13,no Python 3.10 to 3.13 was found).' >&2; \
	    echo 'Install Python 3.11 (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name one:' >&2; \
	    echo '  make setup PYTHON=/path/to/python3.11' >&2; exit 1; \
	  fi; \
	  if ! "$$chosen" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "error: $$chosen cannot make virtual environments: its venv module is missing." >&2; \
	    echo 'Install it (Debian, Ubuntu: apt-get install python3.11-venv), or name another Python:' >&2; \
	    echo '  make setup PYTHON=/path/to/python3.11' >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$chosen" --version)"; \
	  "$$chosen" -m venv --clear $(VENV); \
	fi
	@echo 'Installing the pinned packages (a few minutes and 6 GB the first time)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: setup ## Check format, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict trident luigi_tasks

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup ## Run the test suite (ARGS="-k grid" narrows it)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

docs: setup ## Build the documentation into site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

containers-test: setup ## Run stages in containers of an engine of our own (root, Linux; SMALL=1: builds no image)
	scripts/docker_engine.sh test $(if $(SMALL),small)

demo: setup demo/slides/demo.svs ## Draw a synthetic H&E slide, run the whole pipeline on it, show the counts
	$(LUIGI) RunCohort --local-scheduler --task all --wsi-dir demo/slides --job-dir demo/job \
	  --segmenter otsu --mag 20 --patch-size 256 \
	  --patch-encoder stain-stats --slide-encoder mean-stain-stats --gpus=-1
	@$(BIN)/python -m trident.demo report demo/job

demo/slides/demo.svs: | $(STAMP)
	$(BIN)/python -m trident.demo draw $@

bench: setup ## Time our reading against the plain way (ARGS="--slide x.svs --json out.json")
	$(BIN)/python benchmarks/bench_data_path.py $(ARGS)

bench-graph: setup ## Time the task graph: done slides recognised, overhead a task (ARGS="--stat-delay-ms 5")
	$(BIN)/python scripts/bench_graph.py $(ARGS)

chaos: setup ## Kill parts of runs at random moments, 200 times, and compare (ARGS="--kills 20 --seed 7")
	$(BIN)/python scripts/chaos.py $(ARGS)

clean: ## Remove the demonstration, the built pages and tool caches; .venv/ stays
	rm -rf demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One target a common configuration: the encoder at the magnification and patch size that it was made for.
RUNS := uni uni2 conch conch15 virchow virchow2 gigapath hoptimus0 hoptimus1 phikon2 resnet50 stain-stats \
  titan prism chief gigapath-slide mean-uni2

RUN_uni            := --patch-encoder uni_v1 --mag 20 --patch-size 256
RUN_uni2           := --patch-encoder uni_v2 --mag 20 --patch-size 256
RUN_conch          := --patch-encoder conch_v1 --mag 20 --patch-size 512
RUN_conch15        := --patch-encoder conch_v15 --mag 20 --patch-size 512
RUN_virchow        := --patch-encoder virchow --mag 20 --patch-size 224
RUN_virchow2       := --patch-encoder virchow2 --mag 20 --patch-size 224
RUN_gigapath       := --patch-encoder gigapath --mag 20 --patch-size 256
RUN_hoptimus0      := --patch-encoder hoptimus0 --mag 20 --patch-size 224
RUN_hoptimus1      := --patch-encoder hoptimus1 --mag 20 --patch-size 224
RUN_phikon2        := --patch-encoder phikon_v2 --mag 20 --patch-size 224
RUN_resnet50       := --patch-encoder resnet50 --mag 20 --patch-size 256
RUN_stain-stats    := --patch-encoder stain-stats --mag 20 --patch-size 256
RUN_titan          := --slide-encoder titan --mag 20 --patch-size 512
RUN_prism          := --slide-encoder prism --mag 20 --patch-size 224
RUN_chief          := --slide-encoder chief --mag 10 --patch-size 256
RUN_gigapath-slide := --slide-encoder gigapath --mag 20 --patch-size 256
RUN_mean-uni2      := --slide-encoder mean-uni_v2 --mag 20 --patch-size 256

$(RUNS): wsi-dir-given setup
	$(LUIGI) RunCohort --local-scheduler --task '$(TASK)' --wsi-dir '$(WSI_DIR)' --job-dir '$(JOB_DIR)' \
	  --segmenter '$(SEGMENTER)' --gpus='$(GPUS)' $(RUN_$@) $(ARGS)

wsi-dir-given:
	@if [ -z '$(WSI_DIR)' ]; then \
	  echo 'error: WSI_DIR, the folder with the slides, is not set. For example:' >&2; \
	  echo '  make $(firstword $(MAKECMDGOALS)) WSI_DIR=/data/slides JOB_DIR=/data/job GPUS="0 1"' >&2; exit 2; \
	fi

.PHONY: help setup lint format test containers-test docs demo bench bench-graph clean wsi-dir-given $(RUNS)
