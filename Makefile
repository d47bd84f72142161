# make demo   a fresh machine to a trained model, masks and scores, in one go
# make test   lint, format, types and tests
# make metrics   how readable the code is, in numbers
# make test-oldest   the tests with the lowest versions that pyproject.toml promises (an environment of its own)
# make fuzz   damaged input by the thousand (SEED=1 COUNT=15000); make kill: jobs killed at random moments (KILLS=100)
# make install / make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
COUNT ?= 15000
KILLS ?= 100
# Tests start hundreds of processes: without kept bytecode each of them would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test types test-quick test-slow test-oldest fuzz kill metrics clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/verse3d demo --out runs/demo --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 2 types test-quick

# Beside the tests: mypy works on one core.
types: $(VENV)/.installed-dev
	$(BIN)/mypy

test-quick: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

# Two at a time, each with one thread. Tests of one xdist_group share what takes long to make, in one process.
test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadgroup $(PYTEST_ARGS)

metrics: $(VENV)/.installed
	$(BIN)/python scripts/metrics.py

# The oldest PyTorch that is promised needs an older Python than the newest ones do: any that both have will do.
test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --seed $(SEED) --count $(COUNT) $(FUZZ_ARGS)

kill: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.kill --seed $(SEED) --kills $(KILLS)

# A virtual environment that an interrupted call left without pip is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "verse3d needs Python 3.11 or newer; call: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-oldest build dist .mypy_cache .pytest_cache .ruff_cache
