# make demo: set up and run the whole pipeline on the shipped sample. make test: set up and pass the tests.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

.PHONY: help setup demo test soak check wheels bench docs site clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## the environment in .venv, quickly when it is there

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { echo "millrace needs Python 3.11 to 3.14: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@touch $(STAMP)

demo: setup ## the whole pipeline on the shipped sample, with a model at the end
	@$(BIN)/millrace run --source sources/cve_events.yaml
	@echo
	@$(BIN)/millrace train-demo
	@echo
	@echo 'millrace ask "A remote attacker can run arbitrary code by a crafted request; an exploit is public."'
	@$(BIN)/millrace ask "A remote attacker can run arbitrary code by a crafted request; an exploit is public."
	@echo
	@echo "Next: millrace status; millrace features; millrace serve; your own source: README.md. (millrace is in $(BIN)/)"

test: setup ## all tests, a process a core and one more, since many wait for the processes that they start
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

soak: setup ## the tests that draw their moments and orders, many times over (hours)
	@SOAK=1 CLUSTER_ROWS=50_000 $(BIN)/pytest tests/transforms/features/engine/test_clusters.py
	@$(BIN)/pytest --hypothesis-profile soak --timeout 3000 -m hypothesis tests
	@$(BIN)/pytest --kills 1000 --rounds 200 --orders 20 tests/flows/test_kill.py tests/flows/test_concurrency.py tests/transforms/test_order.py

check: setup ## lint, format, types, import direction, SQL
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/sqlfluff lint transforms/sql

wheels: setup ## ask the registry for a wheel of each pin, for every Python that is promised (minutes)
	@.ci/wheels

bench: setup ## all benchmarks, small, against their floors
	@$(BIN)/python benchmarks/pipeline.py --small --check
	@$(BIN)/python benchmarks/groups.py --small --check
	@$(BIN)/python benchmarks/store.py --small --check
	@$(BIN)/python benchmarks/small.py --check
	@$(BIN)/python benchmarks/serving.py --rounds 50 --check

docs: setup ## pages made from code
	@MILLRACE_FEATURES= $(BIN)/millrace features --markdown > docs/features.md
	@MILLRACE_FEATURES= $(BIN)/python -m tests.docs.reference

site: setup ## the documentation as pages to publish or to open, in site/
	@$(BIN)/zensical build --clean --strict

clean: ## the environment and the demo's home
	rm -rf .venv .millrace
