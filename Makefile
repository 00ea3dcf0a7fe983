# `make help` lists what can be asked for; everything else follows from these lines.

# The first interpreter that is new enough; `make PYTHON=/path/to/python3 …` names another.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test ci bench docs format format-check lint types house mutants chaos simulate clean
# One target after the other: `ci` fails on what is cheapest to find.
.NOTPARALLEL:

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The constraints reach the isolated build as well: older pips read the first variable there,
# newer ones the second.
$(STAMP): export PIP_CONSTRAINT := constraints.txt
$(STAMP): export PIP_BUILD_CONSTRAINT := constraints.txt
$(STAMP): export PIP_DISABLE_PIP_VERSION_CHECK := 1
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "choreo needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q -c constraints.txt -e ".[services,dev]"
	@touch $@

demo: $(STAMP)  ## run the shop; ORDERS=file STOCK=file SEED=n COUNT=n DEPLOYMENT=kafka
	@$(PY) -m services.demo $(if $(DEPLOYMENT),--deployment "$(DEPLOYMENT)") \
	  $(if $(ORDERS),--orders "$(ORDERS)") $(if $(STOCK),--stock "$(STOCK)") \
	  $(if $(SEED),--seed "$(SEED)") $(if $(COUNT),--count "$(COUNT)")

test: $(STAMP)  ## run all tests; ARGS="-k name -x"
	@$(PY) -m pytest -q $(ARGS)

ci: format-check lint types house test  ## format, lint, types, house rules, all tests

bench: $(STAMP)  ## measure; ONLY=name for one
	@$(PY) -m bench $(if $(ONLY),--only "$(ONLY)")

docs: $(STAMP)  ## write the reference anew, run every block of code in the pages
	@$(PY) -m docs.generate
	@$(PY) -m pytest -q tests/docs

format: $(STAMP)  ## format and mend what can be mended
	@$(PY) -m ruff format -q .
	@$(PY) -m ruff check -q --fix .

format-check: $(STAMP)  ## is everything formatted?
	@$(PY) -m ruff format --check .

lint: $(STAMP)  ## ruff, every rule
	@$(PY) -m ruff check .

types: $(STAMP)  ## mypy, strict
	@$(PY) -m mypy

chaos: $(STAMP)  ## processes, and servers, that are killed; MINUTES=30 SEED=n DEPLOYMENT=kafka
	@$(PY) -m tests.services.$(if $(filter kafka,$(DEPLOYMENT)),kafka_)chaos --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ORDERS),--orders "$(ORDERS)") $(if $(STOCK),--stock "$(STOCK)")

simulate: $(STAMP)  ## the shop on virtual time, with faults; SEEDS=n WORKERS=n
	@$(PY) -m choreo simulate --exhaustive --scenario services.orders.scenario:single --workers $(or $(WORKERS),2)
	@$(PY) -m choreo simulate --exhaustive --pairs --scenario services.orders.scenario:rejected --workers $(or $(WORKERS),2)
	@$(PY) -m choreo simulate --seeds $(or $(SEEDS),300) --workers $(or $(WORKERS),2)

mutants: $(STAMP)  ## break each promise in a copy: which test notices? ONLY=name
	@$(PY) -m tests.mutants $(if $(ONLY),--only "$(ONLY)")

house: $(STAMP)  ## the house rules: floors, sizes, banned calls, public names
	@$(PY) -m pytest -q tests/house

clean:  ## remove what runs and tools leave behind (not .venv)
	@rm -rf .choreo bench/out build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
