# Needs only make and Python 3.11 or newer. Everything else goes into .venv of this checkout.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
# One thread for each of two test processes is faster than two threads in one: most tests are many small steps.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(JOBS),2)

# timing and subjects are what the others share
BENCHMARKS := $(filter-out timing subjects,$(basename $(notdir $(wildcard benchmarks/*.py))))

.PHONY: help demo test check format docs matrix bench clean

help:
	@echo "make demo     write report.html from the bundled networks and pictures, offline"
	@echo "make test     run every test"
	@echo "make check    format, lint, types, documentation, and the wheel in a fresh environment"
	@echo "make format   let ruff mend format and lint"
	@echo "make docs     write docs/methods.md from the registered methods, docs/matrix.md from their recorded outcomes"
	@echo "make matrix   run every method on every architecture and record what comes out"
	@echo "make bench    run every benchmark and print its table; ONLY=\"shapley metrics\" runs these"
	@echo "make clean    remove .venv and everything built"

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) was found; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/demo.stamp: pyproject.toml | $(UV)
	@echo "installing cutaway and its libraries into .venv (once; PyTorch is large)"
	$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/dev.stamp: pyproject.toml | $(UV)
	$(INSTALL) --editable '.[dev]'
	@touch $@ .venv/demo.stamp

.venv/bench.stamp: pyproject.toml .venv/dev.stamp
	$(INSTALL) --editable '.[dev,bench]'
	@touch $@

demo: .venv/demo.stamp
	$(BIN)/cutaway demo -o report.html

test: .venv/dev.stamp
	$(PYTEST)

check: .venv/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@$(BIN)/cutaway methods --markdown | diff -u docs/methods.md - \
		|| { echo "docs/methods.md is not what the methods say; run make docs"; exit 1; }
	@$(BIN)/python -m tests.matrix.page | diff -u docs/matrix.md - \
		|| { echo "docs/matrix.md is not what tests/matrix/outcomes say; run make docs"; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" ./tests/wheel.sh

format: .venv/dev.stamp
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

docs: .venv/dev.stamp
	$(BIN)/cutaway methods --markdown > docs/methods.md.new && mv docs/methods.md.new docs/methods.md
	$(BIN)/python -m tests.matrix.page > docs/matrix.md.new && mv docs/matrix.md.new docs/matrix.md

matrix: .venv/dev.stamp
	CUTAWAY_RECORD=1 $(PYTEST) tests/matrix/test_matrix.py -k "agrees_or_refuses"
	$(BIN)/python -m tests.matrix.page > docs/matrix.md.new && mv docs/matrix.md.new docs/matrix.md

bench: .venv/bench.stamp
	@for name in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$name"; start=$$(date +%s); \
		$(BIN)/python benchmarks/$$name.py || exit 1; echo "-- $$name: $$(($$(date +%s) - start)) s"; done

clean:
	rm -rf .venv build dist report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
