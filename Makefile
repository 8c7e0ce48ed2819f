# The whole project in a few words. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TREE := build/tree

.DEFAULT_GOAL := help
.PHONY: help check tree

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The folders are installed inside one package; tools that read files see the tree as installed through links.
tree:
	@rm -rf $(TREE) && mkdir -p $(TREE)/orchestrator
	@ln -s $(CURDIR)/orchestrator/* $(TREE)/orchestrator/
	@for floor in policies verifiers routers workers api bench; do ln -s $(CURDIR)/$$floor $(TREE)/orchestrator/$$floor; done

check: tree ## lint, types, import arrows; edits nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TREE) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p orchestrator
	cd $(TREE) && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml
