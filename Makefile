# Two commands: `make demo` and `make test`. Everything else serves them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := common pledge registrar masa interop
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
EDITABLE := $(foreach room,$(ROOMS),--editable ./$(room))
SAY_INSTALLING = echo "Installing into $(VENV); the first time this takes a minute …" >&2

.PHONY: demo test sync fix bench fuzz docs lint types contracts unit clean

demo: $(VENV)/.runtime
	@$(BIN)/brski demo

test: lint types contracts unit
	$(BIN)/python -m tests.support.conformance --summary

sync: $(VENV)/.dev

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

# A million bad inputs for each parser (docs/fuzzing.md); fewer: make fuzz FUZZ_INPUTS=10000 FUZZ_TARGETS="cms jws"
FUZZ_INPUTS ?= 1000000
FUZZ_TARGETS ?=
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) $(FUZZ_TARGETS)

fix: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.runtime
	@$(BIN)/brski bench

docs: $(VENV)/.dev
	$(BIN)/python -m tests.support.conformance docs/conformance.md
	$(BIN)/python -m tests.support.documents

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The suite needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV)

# The tools of `make test` hold everything the demo needs, so one stamp satisfies the other.
$(VENV)/.runtime: requirements/runtime.lock $(ROOMS:%=%/pyproject.toml) | $(VENV)/bin/python
	@$(SAY_INSTALLING)
	@test -f $(VENV)/.dev || $(PIP) install --quiet --require-hashes --requirement requirements/runtime.lock
	@$(PIP) install --quiet --no-build-isolation --no-deps $(EDITABLE)
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(ROOMS:%=%/pyproject.toml) | $(VENV)/bin/python
	@$(SAY_INSTALLING)
	@$(PIP) install --quiet --require-hashes --requirement requirements/dev.lock
	@$(PIP) install --quiet --no-build-isolation --no-deps $(EDITABLE)
	@touch $@
