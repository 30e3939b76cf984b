# The commands of the project. Each makes .venv first if it is missing, and updates it if what is to be installed
# changed. Another Python than python3: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Touched when everything for running, and everything for testing, was installed.
RUNNABLE := $(VENV)/runnable
TESTABLE := $(VENV)/testable

# torch comes with half of all files; most of them are never imported, so none is compiled ahead.
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --no-compile -c constraints.txt

# Everything in benchmarks/ that can be run, besides what makes the tables, needs an accelerator, or installs other tools.
RUNNING := $(shell grep -l '^if __name__ == .__main__.:' benchmarks/*.py)
BENCHMARKS := $(filter-out exact_front device_speed versus_peers,$(basename $(notdir $(RUNNING))))
TABLE := benchmarks/tables/digits_resnet_234_seed0.npz

.PHONY: help demo test test-all lint bench bench-tables

help:
	@echo 'make demo          search the front of a trained network and write runs/demo/report.html (minutes)'
	@echo 'make test          style, types and tests'
	@echo 'make test-all      the same with the slow tests'
	@echo 'make bench         every benchmark: $(BENCHMARKS)'
	@echo 'make bench-tables  the exact front that benchmarks compare with (done once by make bench)'

demo: $(RUNNABLE)
	$(BIN)/evo-mpq run digits_resnet_joint --out runs/demo
	@echo
	@echo 'Open runs/demo/report.html in a browser. A point of the front becomes a file by, for example:'
	@echo "  $(BIN)/evo-mpq export runs/demo --pick 'size<=13kB' --out runs/demo/small.safetensors"

# One thread per process: networks here are so small that more of them wait for each other. Files are the units that
# processes share out, because a file's tests share what is slow to make.
test test-all: export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/pytest -n auto --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ''

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evo_mpq tests

bench: $(TESTABLE) $(TABLE)
	@set -e; for benchmark in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$benchmark; done

bench-tables: $(RUNNABLE)
	$(BIN)/python -m benchmarks.exact_front

$(TABLE): | $(RUNNABLE)
	$(BIN)/python -m benchmarks.exact_front

$(RUNNABLE): pyproject.toml constraints.txt $(VENV)/pyvenv.cfg
	@$(call require-python,$(BIN)/python)
	@echo 'Installing evo-mpq into $(VENV) (a few minutes) ...'
	@$(INSTALL) -e .
	@touch $@

$(TESTABLE): pyproject.toml constraints.txt $(VENV)/pyvenv.cfg
	@$(call require-python,$(BIN)/python)
	@echo 'Installing evo-mpq and what its tests need into $(VENV) (a few minutes) ...'
	@$(INSTALL) -e '.[test,bench]'
	@touch $(RUNNABLE) $@

$(VENV)/pyvenv.cfg:
	@$(call require-python,$(PYTHON))
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu, install python3-venv." >&2; exit 2; }

# The Python that a virtual environment was made with may be gone; then it is made anew.
ifneq ($(shell test -x $(BIN)/python && echo works),works)
.PHONY: $(VENV)/pyvenv.cfg
endif

# $(call require-python,COMMAND) ends with a message if that Python is missing or too old.
require-python = found=$$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing); \
  case $$found in 3.1[1-9]|3.[2-9][0-9]) ;; *) echo "evo-mpq needs Python 3.11 or newer, but $(1) is $$found. Name \
another, after rm -r $(VENV) if there is one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2 ;; esac
