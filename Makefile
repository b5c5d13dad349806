# `make demo` and `make test` need nothing but Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

MINUTES ?= 5

.PHONY: help demo test lowest newest quick lint format docs demo-models chat-arms bench faults fuzz soak clean

help:
	@echo "make demo         install, and run the demonstration"
	@echo "make test         install, and run every test"
	@echo "make quick        the tests that are not marked slow"
	@echo "make lowest       the quick tests on the lowest torch and transformers that are allowed"
	@echo "make newest       the quick tests on the newest of every package"
	@echo "make lint         ruff, and mypy --strict over the installed package"
	@echo "make format       ruff's formatter"
	@echo "make docs         the pages and the reference as a site, in build/site"
	@echo "make demo-models  train the demo models again"
	@echo "make chat-arms    train the chat demo's arm again"
	@echo "make bench        measure this machine against plain transformers"
	@echo "make faults       fail every write of every command, half an hour; the tests sample"
	@echo "make fuzz         search for inputs that descant cannot take, MINUTES=5"
	@echo "make soak         a server under a crowd: answers right, memory flat, MINUTES=5"

demo: $(VENV)/.demo
	$(BIN)/descant demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

# Each has an environment of its own; what else is needed is the newest that fits.
lowest newest: export PIP_CONSTRAINT = $(if $(filter lowest,$@),$(CURDIR)/.ci/lowest.txt)
lowest newest:
	$(PYTHON) -m venv .venv/$@
	.venv/$@/bin/pip install --quiet --disable-pip-version-check --upgrade --editable ".[dev]"
	.venv/$@/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal -m "not slow"

quick: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(INSTALL) --no-deps --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy --cache-dir .mypy_cache -p descant

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	rm -rf build
	$(INSTALL) --no-deps --target build/documented .
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

demo-models: $(VENV)/.dev
	OMP_WAIT_POLICY=passive $(BIN)/python -m examples.demo_models.recipe

chat-arms: $(VENV)/.dev
	OMP_WAIT_POLICY=passive $(BIN)/python -m examples.chat_arms.recipe

bench: $(VENV)/.dev
	$(BIN)/python -m bench.cpu
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.operators

faults: $(VENV)/.dev
	DESCANT_FAULTS=all $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal tests/faults

fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/search.py --minutes $(MINUTES)

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.soak --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "descant needs Python 3.11 or later: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[report,gguf]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/.demo
