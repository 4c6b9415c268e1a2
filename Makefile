# Each target sets up .venv by itself where it is missing or older than pyproject.toml.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n 2 --dist worksteal
RUN := runs/$(shell date +%Y%m%d-%H%M%S)

.PHONY: run test test-slow test-all lint bench notebooks docs

# The main job on the embedded digits: train, evaluate, compare, plot, report.
run: .venv/report
	$(BIN)/pyro-vae train --preset bernoulli-mlp --data digits --epochs 40 --out $(RUN)/vae
	$(BIN)/pyro-vae evaluate $(RUN)/vae
	$(BIN)/pyro-vae compare --preset bernoulli-mlp --data digits --epochs 10 --seeds 3 --num-samples 200 --examples 1000 --out $(RUN)/comparison
	$(BIN)/pyro-vae plot $(RUN)/vae
	@echo "The pictures are in $(RUN)/vae/figures and $(RUN)/comparison."
	$(BIN)/pyro-vae report $(RUN)/vae

# Lint, types, and the tests that a change must not break: five minutes on two cores.
test: lint
	$(PYTEST) -m "not slow"

# The same laws over more parts, statistics at full size, notebooks and the site; pictures of pages
# are kept in build/screenshots.
test-slow: .venv/dev
	PYRO_VAE_SCREENSHOTS=$(CURDIR)/build/screenshots $(PYTEST) -m slow

test-all: test test-slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Times on this machine: writes docs/benchmarks.md. Those of a GPU:
#   python -m benchmarks --device cuda --out docs/benchmarks-cuda.md
bench: .venv/bench
	$(BIN)/python -m benchmarks --out docs/benchmarks.md

# Runs the notebooks in full and keeps their outputs.
notebooks: .venv/notebooks
	TQDM_DISABLE=1 $(BIN)/pytest --nbmake --nbmake-timeout=3600 --overwrite notebooks

# The documentation as a site: build/docs/index.html. Warnings are errors, and nothing is fetched.
docs: .venv/docs
	$(BIN)/sphinx-build -W --keep-going -q -c docs . build/docs
	@echo "The site is in build/docs: open build/docs/index.html."

.venv/bin/python:
	$(PYTHON) -m venv .venv

# One stamp for each set of packages; a newer pyproject.toml makes all of them out of date.
.venv/core: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	touch $@

.venv/dev .venv/bench .venv/notebooks .venv/report .venv/docs: .venv/%: pyproject.toml .venv/core
	$(BIN)/pip install -q -e '.[$*]'
	touch $@
