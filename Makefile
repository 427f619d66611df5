# make demo   sets up, then the main job on the embedded default: data, fine-tuning, predictions, scores, a page; then a
#             cascade of small stages on the same posts, and both in one table
# make test   sets up, then the tests
# make setup  sets up alone, with another Python by PYTHON=python3.12; make setup-check does so elsewhere, without caches
# make lock   the newest versions of all packages, into requirements.lock; make lock-new adds what is new there alone
# make docs   a site of README.md, docs/ and the docstrings, in build/site
# make faults breaks what can be broken, on purpose, and writes what held into docs/reliability.md
VENV ?= .venv
BIN := $(VENV)/bin
# The Python of the environment that is there, so that one made with PYTHON=python3.12 stays.
PYTHON ?= $(if $(wildcard $(VENV)/ready),$(BIN)/python,python3)
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup setup-weights setup-check lock lock-new demo test test-slow faults style docs clean

setup:
	@$(PYTHON) environment/set_up.py $(VENV)

setup-weights:
	@$(PYTHON) environment/set_up.py $(VENV) --weights

setup-check:
	$(PYTHON) environment/check.py

lock: setup
	python environment/lock.py

lock-new: setup
	python environment/lock.py --keep

demo: setup
	python benchmarks/demo_time.py

test: setup-weights
	python -m pytest -n 2 --dist loadgroup

test-slow: setup-weights
	python -m pytest -m slow

faults: setup-weights
	FAULTS_TABLE=docs/reliability.md python -m pytest -n 2 --dist loadgroup -m 'not slow' tests/faults

style: setup
	ruff check .
	ruff format --check .
	mypy

docs:
	@$(PYTHON) environment/set_up.py $(VENV) --docs
	sphinx-build -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo build/site/index.html

clean:
	rm -rf $(VENV) $(VENV).log runs
