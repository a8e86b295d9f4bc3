# make demo   the whole thread on a tiny model: corpus, two stages, predictions, score
# make test   what CI runs: tests, lint, types
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint bench-corpus bench-gpu clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,cluster]'
	touch $@

demo: install
	$(BIN)/python -m taigi_lightning demo

test: install
	$(BIN)/python -m pytest -n 2
	$(MAKE) lint

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-corpus: install
	$(BIN)/python tests/benchmarks/corpus_speed.py

bench-gpu:
	$(PYTHON) tests/benchmarks/qlora_step.py
