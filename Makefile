# Everything from a fresh clone: `make demo`, `make test`. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all stress chaos sb3-tests bench bench-gpu fidelity figures check check-all lint format types docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed ## train on LunarLander-v3 with three bundled priors (a few minutes)
	$(BIN)/python -m sb3_ca2e.demo

test: $(VENV)/.installed ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.installed ## run those that take many seconds too
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

stress: $(VENV)/.installed ## the concurrent tests in random order on a busy machine, an hour or two; resumable; STRESS_ARGS=--help
	$(BIN)/python tests/stress.py $(STRESS_ARGS)

chaos: $(VENV)/.installed ## everything that can go wrong, made to happen, for an hour or two; ROW=F8 for a part
	$(BIN)/python -m tests.chaos $(addprefix --row ,$(ROW))

sb3-tests: $(VENV)/.installed ## SB3's own tests of DQN and DDPG with our classes in their place, some ten minutes
	$(BIN)/python benchmarks/sb3_tests.py

bench: $(VENV)/.installed ## speed beside the peers, half an hour on a quiet machine; QUICK=1 for five minutes
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

# With the user's own Python: one that has PyTorch with CUDA, and SB3 and ale-py, on a machine without a network
bench-gpu: ## the same on a GPU, with PYTHON; QUICK=1 for shorter measurements
	$(PYTHON) benchmarks/run.py --gpu $(if $(QUICK),--quick)

fidelity: .venv-fidelity/.installed ## the same programs under SB3 and CA2E, an hour or more; resumable; FIDELITY_ARGS=--help
	.venv-fidelity/bin/python benchmarks/fidelity.py $(FIDELITY_ARGS)

figures: $(VENV)/.installed ## tables and figures of the docs and the README, from the committed results
	$(BIN)/python benchmarks/readme.py
	$(BIN)/python benchmarks/learn.py report
	$(BIN)/python benchmarks/learn.py figures

check: test lint types docs ## what a change must pass

check-all: test-all lint types docs ## the same with all tests, as CI does

lint: $(VENV)/.installed ## ruff: rules and format; import-linter: who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/.installed ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed ## mypy
	$(BIN)/mypy

# Where the environment of the tests is not there, a small one does
DOCS := $(if $(wildcard $(VENV)/.installed),$(VENV),.venv-docs)

docs: $(DOCS)/.installed ## build the documentation; a warning is an error
	$(DOCS)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove the environments and everything built
	rm -rf $(VENV) .venv-docs .venv-fidelity build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# The environment: made anew when the lock changes, our own package again when pyproject.toml does
$(VENV)/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-docs/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --disable-pip-version-check -c requirements.lock -e '.[docs]'
	@touch $@

# Environments that no one here wrote; they ask for other versions than the lock
.venv-fidelity/.installed: benchmarks/fidelity-requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv-fidelity
	.venv-fidelity/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/fidelity-requirements.txt
	.venv-fidelity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
