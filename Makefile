# The verbs of the project. Each makes the environment it needs, with the exact versions of constraints.txt.

VENV ?= .venv
# The first Python of at least 3.11 on the path; `make PYTHON=python3.13 VENV=.venv-3.13 test` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
INSTALL := $(BIN)/python -m pip install -qq -c constraints.txt --build-constraint constraints.txt

# What `make bench` is given, such as BENCH='--only fit --fresh'.
BENCH ?=

.PHONY: help demo test test-slow coverage lint format bench curves gallery picture configs clean

help:
	@echo "make demo        fit Old Faithful by EM, SVI and MCMC and write the report"
	@echo "make test        the fast tests          make test-slow   the long statistical ones"
	@echo "make coverage    the fast tests, with statement and branch coverage"
	@echo "make lint        ruff and pyright        make format      let ruff mend what it can"
	@echo "make bench       time triptych and its peers side by side, into docs/benchmarks.md; it goes on where it was"
	@echo "make curves      time and memory against N, D, K and chains, into docs/cost_curves.md"
	@echo "make gallery     run five configs and keep their pages in docs/gallery"
	@echo "make picture     take the README's picture again, from the gallery"
	@echo "make configs     run every shipped config, into results/"
	@echo "make clean       remove what was built (not the results)"

# pip itself is pinned first: the one inside a new environment may be too old to know dependency groups.
$(VENV)/.pip: constraints.txt
	@test -x $(BIN)/python || { test -n "$(PYTHON)" || { \
		echo "triptych needs Python 3.11 or newer; none was found. Say which: make PYTHON=/path/to/python" >&2; \
		exit 2; }; "$(PYTHON)" -m venv $(VENV); }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --upgrade pip
	@touch $@

$(VENV)/.run: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "Installing triptych into $(VENV) (the first time takes a few minutes) ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.develop: $(VENV)/.run
	@echo "Installing what the tests and the linters need into $(VENV) ..."
	@$(INSTALL) --group test --group lint
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	@echo "Installing the peers into $(VENV) (some gigabytes, with PyTorch) ..."
	@$(INSTALL) --group bench
	@touch $@

demo: $(VENV)/.run
	$(BIN)/triptych run old_faithful --output results/old_faithful
	@echo "Open results/old_faithful/report.html in a browser."

test: $(VENV)/.develop
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.develop
	$(PYTEST) -m slow

coverage: $(VENV)/.develop
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing

lint: $(VENV)/.develop
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.develop
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The peers live in an environment of their own: what they depend on is heavy.
bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python benchmarks/bench.py $(BENCH)

curves: $(VENV)/.run
	$(BIN)/python benchmarks/cost_curves.py

gallery: $(VENV)/.run
	$(BIN)/python docs/gallery.py

picture: $(VENV)/.run
	$(BIN)/python docs/gallery.py --picture

configs: $(VENV)/.run
	@for config in experiments/configs/*.yaml; do $(BIN)/triptych run $$config || exit 1; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov .benchmarks
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
