# Every target sets up .venv by itself, once, and again when pyproject.toml or constraints.txt has changed.
#   make table7 SCALE=paper ARGS="shard.index=0 shard.count=8"     extra choices for a run
#   make setup PYTHON=/usr/bin/python3.12                          a particular interpreter

.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCALE := mini
ARGS :=
RUN = $(BIN)/python run.py scale=$(SCALE)
TABLES := table1 table2 table3 table4 table5 table5_max table6 table7 table8 table9
FIGURES := fig5 fig7 fig8 fig9 fig12

# The first of these that runs is taken; version managers leave names on the PATH that do not.
PYTHON := python3.13 python3.12 python3.11 python3
SUPPORTED := import sys, venv; assert (3, 11) <= sys.version_info[:2] <= (3, 13)

.NOTPARALLEL:
.PHONY: help setup demo test lint tables $(TABLES) figures $(FIGURES) heads minis bench clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9_]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Create .venv and install everything, with uv where it is installed, else with pip

demo: $(STAMP) ## Measure every method of Table 7 on the miniature and show the table and the picture
	$(BIN)/python run.py experiment=table7 logger=none $(ARGS)

test: $(STAMP) ## Run the tests (the slow ones: make test ARGS="-m slow")
	$(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(STAMP) ## Check code style, formatting, docstrings and, in the chain core, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: $(TABLES) ## Regenerate every table (SCALE=paper for the paper's checkpoints)

table1: $(STAMP) ## Regenerate Table 1, the rows of FLUX and DiffSeg, into results/table1
	$(RUN) experiment=table1 $(ARGS)

table2: $(STAMP) ## Regenerate Table 2, IS, FID and KID of guided generation, into results/table2
	$(RUN) experiment=table2 $(ARGS)

table3: $(STAMP) ## Regenerate Table 3, anchors of DiffSeg, into results/table3
	$(RUN) experiment=table3 $(ARGS)

table4: $(STAMP) ## Regenerate Table 4, token masking, into results/table4
	$(RUN) experiment=table4 $(ARGS)

table5: $(STAMP) ## Regenerate Table 5, linear probing of attention maps, into results/table5
	$(RUN) experiment=table5 $(ARGS)

table5_max: $(STAMP) ## Regenerate Table 5 with each map divided by its maximum, into results/table5_max
	$(RUN) experiment=table5_max $(ARGS)

table6: $(STAMP) ## Regenerate Table 6, linear probing of the heads' mean, into results/table6
	$(RUN) experiment=table6 $(ARGS)

table7: $(STAMP) ## Regenerate Table 7 into results/table7
	$(RUN) experiment=table7 $(ARGS)

table8: $(STAMP) ## Regenerate Table 8 into results/table8
	$(RUN) experiment=table8 $(ARGS)

table9: $(STAMP) ## Regenerate Table 9, tests on the runs of Tables 5, 6 and 8, into results/table9
	$(RUN) experiment=table9 $(ARGS)

figures: table7 $(FIGURES) ## Regenerate every figure, the one beside Table 7 included

fig5: $(STAMP) ## Regenerate Figure 5, images with and without guidance, into results/fig5
	$(RUN) experiment=fig5 $(ARGS)

fig7: $(STAMP) ## Regenerate Figure 7, curves of token masking, into results/fig7
	$(RUN) experiment=fig7 $(ARGS)

fig8: $(STAMP) ## Regenerate Figure 8, the number of masked blocks, into results/fig8
	$(RUN) experiment=fig8 $(ARGS)

fig9: $(STAMP) ## Regenerate Figure 9, masking budgets of the heads, into results/fig9
	$(RUN) experiment=fig9 $(ARGS)

fig12: $(STAMP) ## Regenerate Figure 12, more such images, into results/fig12
	$(RUN) experiment=fig12 $(ARGS)

heads: $(STAMP) ## Fetch the published DINO heads and keep their hashes, for scale=paper
	@$(BIN)/python scripts/pin_heads.py

minis: $(STAMP) ## Train the miniatures again; an interrupted training goes on
	@for name in flux vit clip dinov1 dinov2 sd15; do $(BIN)/python scripts/train_minis.py $$name $(ARGS) || exit 1; done

bench: $(STAMP) ## Measure the chain core beside what else there is; some minutes, on an idle machine
	@$(BIN)/python -c 'import fast_pagerank, networkx, sknetwork' 2>/dev/null || { \
		if command -v uv >/dev/null; then install="uv pip install --python $(BIN)/python"; \
		else install="$(BIN)/python -m pip install"; fi; \
		$$install --constraint constraints.txt --editable '.[dev,bench]'; }
	$(BIN)/python benchmarks/chain.py $(ARGS)

clean: ## Remove .venv and caches; results and records stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find run.py src scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	runs() { "$$1" -c '$(SUPPORTED)' >/dev/null 2>&1; }; \
	for python in $(PYTHON) ''; do if runs "$$python"; then break; fi; done; \
	if command -v uv >/dev/null; then \
		runs $(BIN)/python || uv venv --clear --python "$${python:-3.13}" $(VENV); \
		uv pip install --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'; \
	elif [ -n "$$python" ]; then \
		runs $(BIN)/python && $(BIN)/python -m pip --version >/dev/null || "$$python" -m venv --clear $(VENV); \
		$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'; \
	else \
		echo "No Python 3.11 to 3.13 runs here; install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi
	@touch $@
