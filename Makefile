# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
HEADS := decoder.num_heads=1,2,4,8

.PHONY: help install demo leaderboard tune tunemore tunetexts readme test check tiny benchmarks matrix trust coverage compat audit docs wheel release clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(VENV)/installed ## make .venv and install the package into it

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install ## a short tour: every strategy and its controls on two small models; leaves a report to open
	$(BIN)/sightline leaderboard demo run.root=runs/demo

leaderboard: install ## all decoders on all four small models, all tasks: the figures of the documents
	$(BIN)/sightline leaderboard full run.root=runs/full
	$(BIN)/sightline leaderboard images run.root=runs/images

tune: install ## choose hyper-parameters on validation scenes (docs/tuning.md)
	$(BIN)/sightline run -m experiment=tune_shift decoder.delta=-4,-3,-2.5,-2,-1.5,-1,-0.5,0,0.5,1
	$(BIN)/sightline run -m experiment=tune_vcd decoder.alpha=0.25,0.5,1,2 decoder.noise_step=100,200,300,500,700,999
	$(BIN)/sightline run -m experiment=tune_decore $(HEADS) decoder.alpha_mode=entropy,jsd
	$(BIN)/sightline run -m experiment=tune_decore $(HEADS) decoder.alpha_mode=static decoder.alpha=0.5,1
	$(BIN)/sightline run -m experiment=tune_random_heads $(HEADS) decoder.alpha_mode=entropy,jsd
	$(BIN)/sightline run -m experiment=tune_random_heads $(HEADS) decoder.alpha_mode=static decoder.alpha=0.5,1
	for decoder in shift vcd decore random-heads; do $(BIN)/sightline tune runs/tune-$$decoder || exit; done

tunemore: install ## the same for AVC, IAVA, CODE, CausalMM and CG-VLM, which cost more
	$(BIN)/sightline run -m experiment=tune_avc decoder.alpha=0.5,1,2.5 decoder.lamb=0,1
	$(BIN)/sightline run -m experiment=tune_iava decoder.alpha=0.5,1,2 decoder.rule=general_outlier_and_drop,difference_outlier
	$(BIN)/sightline run -m experiment=tune_code
	$(BIN)/sightline run -m experiment=tune_code decoder.alpha_mode=fixed decoder.beta_mode=fixed decoder.alpha=0.25,0.5,1
	$(BIN)/sightline run -m experiment=tune_causalmm decoder.modality=vision,language,multimodal decoder.gamma=0.25,0.5,1
	$(BIN)/sightline run -m experiment=tune_cgvlm decoder.gating=interaction decoder.alpha=0.1,0.25,0.5
	for decoder in avc iava code causalmm cgvlm; do $(BIN)/sightline tune runs/tune-$$decoder || exit; done

TEXTS := $(BIN)/sightline run -m experiment=tune_texts task=

tunetexts: install ## the same for the text tasks, each by itself
	for task in nq_swap_facts\ task.contexts=[substituted] memo_trap_facts truthful_qa_facts; do for choice in \
	  "greedy" "cad decoder.alpha=0.25,0.5,1,2" "dola decoder.layers=low,high decoder.beta=0,0.1" "dagcd decoder.alpha=1,2,4,8" \
	  "hicd decoder.num_heads=1,2,4 decoder.alpha=-0.5,0.5,1,2" \
	  "decore $(HEADS) decoder.alpha_mode=entropy,jsd" "decore $(HEADS) decoder.alpha_mode=static decoder.alpha=0.5,1,2" \
	  "random_heads $(HEADS) decoder.alpha_mode=entropy,jsd" "random_heads $(HEADS) decoder.alpha_mode=static decoder.alpha=0.5,1,2"; \
	  do $(TEXTS)$$task decoder=$$choice || exit; done; done
	$(BIN)/sightline tune runs/tune-nq_swap_facts --metric em --table substituted
	$(BIN)/sightline tune runs/tune-memo_trap_facts --metric accuracy --table micro
	$(BIN)/sightline tune runs/tune-truthful_qa_facts --metric MC2 --table multiple_choice

readme: install ## write the table of decoders into README.md, and that of the papers' presets into docs/papers.md
	$(BIN)/sightline decoders --into README.md
	$(BIN)/sightline presets --into docs/papers.md

test: install check ## lint, types, layers, then all tests
	$(BIN)/python -m pytest -n 2

check: install ## lint, format, type check, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

tiny: install ## train the small models again from nothing (two cores: hours), and measure what strategies know of them
	$(BIN)/python -m sightline.eval.training.tiny_llava --out models/tiny/tiny-llava
	$(BIN)/python -m sightline.eval.training.tiny_instructblip --out models/tiny/tiny-instructblip
	$(BIN)/python -m sightline.eval.training.tiny_qwen_vl --out models/tiny/tiny-qwen-vl
	for model in tiny-llava tiny-instructblip tiny-qwen-vl; do \
	  $(BIN)/sightline calibrate model=$$model what=image out=models/tiny/$$model/image_heads.json && \
	  $(BIN)/sightline calibrate model=$$model what=threshold out=models/tiny/$$model/cgvlm_threshold.json && \
	  $(BIN)/sightline calibrate model=$$model what=inducing out=models/tiny/$$model/inducing_heads.json || exit; done
	$(BIN)/python -m sightline.eval.training.tiny_llama --out models/tiny/tiny-llama
	$(BIN)/sightline calibrate model=tiny-llama what=inducing out=models/tiny/tiny-llama/inducing_heads.json
	$(BIN)/sightline calibrate model=tiny-llama what=detector out=models/tiny/tiny-llama/dagcd_detector.json

BENCH := $(BIN)/sightline bench
benchmarks: install ## measure what decoders cost here (a quarter of an hour, on an idle machine); write BENCHMARKS.md
	$(BENCH) tiny-llava --weights real --naive vcd --dtype float32 --threads 1 --rounds 9 --new-tokens 24 --out build/benchmarks/tiny-llava
	$(BENCH) tiny-llama --weights real --dtype float32 --threads 1 --rounds 9 --new-tokens 24 --out build/benchmarks/tiny-llama
	$(BENCH) llava-0.5b --image-size 112 --decoders vcd code causalmm cgvlm avc hicd decore dola dagcd --description-tokens 8 \
	  --rounds 5 --new-tokens 8 --out build/benchmarks/llava-0.5b
	$(BENCH) tiny-llava --questions --dtype float32 --threads 1 --images 24 --rounds 3 --out build/benchmarks/questions
	for model in llava-1.5-7b instructblip-vicuna-7b qwen2.5-vl-7b; do \
	  $(BENCH) $$model --analytic --naive vcd --out build/benchmarks/$$model || exit; done
	$(BENCH) llama-3-8b --analytic --out build/benchmarks/llama-3-8b
	$(BIN)/python tests/benchmarks.py build/benchmarks

matrix: install ## run every decoder in every mode of generate() on every family; write eval/matrix.json and docs/matrix.md
	$(BIN)/python tests/matrix/whole.py --jobs 2
	$(BIN)/sightline matrix --into docs/matrix.md

trust: install ## run what holds each promise and write docs/trust.md (an hour); QUICK=1 is the short version, ONLY="fuzz mutants" repeats stages
	$(BIN)/python tests/trust/table.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) --into docs/trust.md

coverage: install ## branches of decoders/ and models/ that the tests take; build/coverage.json
	$(BIN)/python -m pytest -n 2 --cov=decoders --cov=models --cov-branch --cov-report=term-missing:skip-covered \
	  --cov-report=json:build/coverage.json tests/decoders tests/models tests/matrix tests/trust

compat: install ## all tests on the oldest and the newest transformers; WHAT="oldest --pairwise" is what CI runs
	$(BIN)/python tests/compat.py $(WHAT)

audit: install ## known weaknesses in the versions of constraints.txt; says so where the advisory service is out of reach
	$(BIN)/python tests/audit.py

harnesses: install ## try the plug-ins inside the real lm-evaluation-harness and lmms-eval, in environments of their own
	$(BIN)/python tests/harnesses.py

wheel: install ## build the wheel and try it in an environment of its own
	$(BIN)/python tests/wheel.py

docs: install ## build the documentation site into build/site, warnings as errors
	$(BIN)/python docs/draw_methods.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

release: wheel ## wheel and source archive into dist/, checked; see docs/release.md
	$(BIN)/python tests/release.py

clean: ## remove what can be made again
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
