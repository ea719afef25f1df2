# make demo: raw text to a trained, evaluated, sampled model. make test: lint, types, tests.
# make unit: the tests without Ray and torch, on generated data. All make .venv first; all can be run again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test unit slow soak golden lint install reference docs clean

demo: install
	@$(BIN)/python -m jobs.demo

test: lint
	$(BIN)/python -m pytest -m "not slow"

unit: install
	PILEDRIVER_DATA=stand-in $(BIN)/python -m pytest -n 2 --dist loadfile \
		-m "not ray and not train and not gpu and not slow and not command and not build"

slow: install
	$(BIN)/python -m pytest -m slow

soak: install
	$(BIN)/python -m tests.soak

golden: install
	$(BIN)/python -m tests.golden

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

reference: install
	$(BIN)/python -m jobs.reference > docs/reference/configuration.md
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/tour.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -m jobs.compile
	@touch $@

clean:
	rm -rf $(VENV) runs .cache *.egg-info
