# make help lists what there is. Every target sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
ROUNDS ?= 10
ORDERS ?= 1000000
SERVICES := oauth poller orders tenant-sync
# Reads what compose-secrets made; COMPOSE="$(BIN)/docker-compose" where the docker command has no compose.
COMPOSE ?= docker compose
COMPOSE_STATE ?= .local/compose
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-package keybuzz-shared --no-emit-index-url --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo up test chaos plans lint check fmt lock bench compose compose-down compose-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## Install the locked dependencies into .venv

.venv/ready: requirements/uv.txt requirements/dev.txt shared/pyproject.toml devstack/pyproject.toml $(SERVICES:%=services/%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation \
		-e shared -e devstack $(SERVICES:%=-e services/%)
	@touch $@

demo: setup ## Run the whole story and show it (ARGS=--exit ends by itself)
	$(BIN)/python -m devstack demo $(ARGS)

up: setup ## Start everything and keep it running (ARGS="--state DIR" for a second one)
	$(BIN)/python -m devstack up $(ARGS)

test: setup ## Run the tests (ARGS="-k word" for some)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

chaos: setup ## Kill oauth and orders at every point of their work, 10 times each (ROUNDS=100 for more), and say what became of it
	CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/oauth/test_kills.py tests/orders/test_kills.py -rP --show-capture=stdout $(ARGS)

plans: setup ## Prove that lists of orders stay on their indexes at 1 M rows (ORDERS=10000000: 15 GB of disk)
	ORDERS=$(ORDERS) $(BIN)/python -m pytest tests/orders/test_plans.py -rP --show-capture=stdout $(ARGS)

lint: setup ## Format, lint, types, imports and compose.yaml, without the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory compose-check

check: lint test ## All of it, as CI does

fmt: setup ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: setup ## Compile the lock files again after a change of dependencies
	$(LOCK) --no-deps requirements/uv.in -o requirements/uv.txt
	$(LOCK) --extra sigv4 requirements/dev.in requirements/uv.in devstack/pyproject.toml shared/pyproject.toml \
		$(SERVICES:%=services/%/pyproject.toml) -c requirements/uv.txt -o requirements/dev.txt
	for s in $(SERVICES); do $(LOCK) services/$$s/pyproject.toml -c requirements/dev.txt -o requirements/$$s.txt || exit 1; done
	echo botocore | $(LOCK) - -c requirements/dev.txt -o requirements/sigv4.txt

bench: setup ## Measure, beside a limit in the same run (NAME=demo for one); results in bench/results
	@for file in $(if $(NAME),bench/$(NAME).py,bench/*.py); do $(BIN)/python $$file $(ARGS) || exit 1; done

compose: setup ## Run everything in containers, with the passwords and keys in .local/compose
	$(BIN)/python -m devstack compose-secrets --state $(COMPOSE_STATE)
	$(COMPOSE) --env-file $(COMPOSE_STATE)/.env up -d --build --wait

compose-down: ## Stop the containers and keep their data (ARGS=-v deletes it)
	$(COMPOSE) --env-file $(COMPOSE_STATE)/.env down $(ARGS)

compose-check: setup ## Check compose.yaml with the real parser; needs no engine
	@state=$$(mktemp -d) && trap 'rm -rf "$$state"' EXIT \
		&& $(BIN)/python -m devstack compose-secrets --state "$$state" > "$$state/made" \
		&& $(BIN)/docker-compose --env-file "$$state/.env" -f compose.yaml config --quiet

clean: ## Remove .venv and the local state
	rm -rf .venv .local
