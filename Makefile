# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: help install demo test check tiny wheel clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(VENV)/installed ## make .venv and install the package into it

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install ## run every decoder on tiny-llava over POPE on scenes, and leave a report to open
	$(BIN)/sightline leaderboard demo run.root=runs/demo

test: install check ## lint, types, layers, then all tests
	$(BIN)/python -m pytest -n 2

check: install ## lint, format, type check, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

tiny: install ## train tiny-llava again from nothing (two cores: up to two hours)
	$(BIN)/python -m sightline.eval.training.tiny_llava --out models/tiny/tiny-llava

wheel: install ## build the wheel and try it in an environment of its own
	$(BIN)/python tests/wheel.py

clean: ## remove what can be made again
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
