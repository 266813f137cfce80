# Every target is one line: it calls a script. `make` alone shows them by persona.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
SETUP := $(PYTHON) scripts/setup.py
PY := .venv/bin/python
CLOUD := PYTHONPATH=scripts .venv-localaws/bin/python -m localaws
PORT ?= 4566
SCENARIO ?= full
ARGS ?=
CHECK := PYTHONPATH=scripts .venv-check/bin/python -m check
REHEARSE = PYTHONPATH=scripts $(PY) -m rehearse $(if $(LIST),--list,$(SCENARIO)) $(if $(JSON),--json) $(if $(KEEP),--keep) $(ARGS)

##@ Everyone
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

rehearse: setup ## Run use cases A to G without an AWS account (SCENARIO=name, LIST=1, JSON=1, KEEP=1)
	@$(REHEARSE)

test: setup ## What continuous integration runs: every scanner and the tests
	@$(SETUP) oracle && $(MAKE) --no-print-directory check ARGS= && $(PY) -m pytest -m "not long" -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: setup ## The rehearsals that take many minutes: releases, API, drift, batch (every night, and before a release)
	@$(PY) -m pytest -m long tests/rehearsal $(ARGS)

cloud: setup ## Keep the local cloud up for the AWS CLI, boto3 and git (PORT=4566)
	@exec env $(CLOUD) --port $(PORT) --parent-pid $$PPID

setup: ## Make the environments and the wheel store (cached)
	@$(SETUP)

##@ Full Stack Developer (A)
package: setup ## Build the release into build/release without uploading it
	@$(PY) scripts/publish.py --package-only $(ARGS)

publish: setup ## Publish an immutable release and print its quick-create link (ARGS='--bucket NAME')
	@$(PY) scripts/publish.py $(ARGS)

deploy: setup ## Publish, then create or update the infrastructure stack
	@$(PY) scripts/deploy.py $(ARGS)

teardown: setup ## Delete projects, users and infrastructure; says what is kept (ARGS=--yes)
	@$(PY) scripts/teardown.py $(ARGS)

prepare-account: setup ## Prepare another account for staging or production (ARGS='--profile staging --project churn')
	@$(PY) scripts/prepare_account.py $(ARGS)

account-test: setup ## Launch and delete 1-infra with taskcat (LOCAL=1: against make cloud)
	@$(PY) scripts/account_test.py $(if $(LOCAL),--local-port $(PORT)) $(ARGS)

##@ Data Science Admin (B, C)
create-project: setup ## Create a project (ARGS='--name churn --cost-center 4711 --owner-email you@example.com')
	@$(PY) scripts/create_project.py $(ARGS)

create-user: setup ## Give a Data Scientist a profile in a project (ARGS='--project churn --user jane')
	@$(PY) scripts/create_user.py $(ARGS)

##@ Data Scientist (F)
approve: setup ## Approve or reject a model version (ARGS='--project churn [--version 3] [--reject]')
	@$(PY) scripts/approve.py $(ARGS)

retrain: setup ## Train a project again (ARGS='--project churn --why "labels of October are in" [--data s3://...] [--wait]')
	@$(PY) scripts/retrain.py $(ARGS)

##@ Contributors
statements: setup ## Which policy statements a rehearsal needs (ARGS=--write chooses the list, ARGS='--live 3' tries)
	@PYTHONPATH=scripts $(PY) -m statements $(ARGS)

lint: setup ## ruff and cfn-lint, strict
	@.venv/bin/ruff check && .venv/bin/cfn-lint

check: setup ## Every scanner on templates, policies and code (JSON=1, WRITE=1 for docs, ARGS='--only guard')
	@$(SETUP) check && $(CHECK) $(if $(JSON),--json) $(if $(WRITE),--write) $(ARGS)

mutate: setup ## Make templates less safe in many ways and count what the check notices (JSON=1, ARGS='--count 50')
	@$(SETUP) check && $(CHECK).mutate $(if $(JSON),--json) $(if $(WRITE),--write) $(ARGS)

bench: setup ## How fast the monitor reads an hour of traffic, next to Evidently and to mere parsing (ARGS='--rows 1000000')
	@$(SETUP) bench && $(PY) tests/bench/monitor_bench.py $(if $(JSON),--json) $(ARGS)

bench-serving: setup ## How fast the endpoint serves, next to AWS's scikit-learn stack and to bare predict (JSON=1; needs wrk)
	@$(SETUP) bench-serving && $(PY) tests/bench/serving_bench.py $(if $(JSON),--json) $(ARGS)

format: setup ## Let ruff mend what it can
	@.venv/bin/ruff check --fix && .venv/bin/ruff format

privileges: setup ## Compare what roles are granted with what the last rehearsal used (docs/privileges.md)
	@$(PY) scripts/privileges.py $(ARGS)

docs: setup ## Make the generated tables of docs/ anew
	@$(PY) scripts/docs.py

lock: ## Resolve requirements/*.in and the wheel store's locks anew
	@$(SETUP) lock

clean: ## Remove build output, environments and caches
	rm -rf build .venv .venv-localaws .venv-check .venv-bench .cache .pytest_cache .ruff_cache tests/security/oracle/node_modules

.PHONY: help rehearse test test-long cloud setup package publish deploy teardown prepare-account account-test create-project create-user approve retrain statements lint check mutate bench bench-serving format privileges docs lock clean
