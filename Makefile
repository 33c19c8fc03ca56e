# Two commands do it all on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
GPU_VENV := .venv-gpu
PY := $(VENV)/bin/python
UV_VERSION := 0.13.9
# A uv that is there already, or one of our own in .venv-uv.
UV := $(shell command -v uv || echo .venv-uv/bin/uv)

.PHONY: help install install-gpu demo test test-quick chaos lint lint-page lint-boards vendor format lock sbom clean
help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# Make a virtual environment out of a requirement file, with the package itself in it. All is compiled here, once: else the first
# start does it, and where Python may write no bytecode every start, for half a minute.
define fill
	@test -x $(@D)/bin/python || $(UV) venv --quiet --python '>=3.11,<3.14' $(@D)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(@D)/bin/python $<
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(@D)/bin/python --editable .
	@touch $@
endef

install: $(VENV)/.installed ## make .venv with every part, pinned and hashed
$(VENV)/.installed: requirements/dev.txt pyproject.toml | $(UV)
	@echo "installing into $(VENV): about 2 GB to fetch the first time, 6 GB on disk"
	$(fill)

install-gpu: $(GPU_VENV)/.installed ## make .venv-gpu with what `sightline up` needs on a machine with an NVIDIA GPU
$(GPU_VENV)/.installed: requirements/gpu.txt pyproject.toml | $(UV)
	@echo "installing into $(GPU_VENV): about 5 GB to fetch the first time, 10 GB on disk"
	$(fill)

.venv-uv/bin/uv:
	python3 -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv==$(UV_VERSION)

demo: install ## describe pictures it has never seen, through the whole system
	@$(VENV)/bin/sightline demo

# Two processes more than cores (tests/conftest.py), each with a Valkey of its own; tests that share a running service stay in one.
PARALLEL := -n auto
test: install ## all tests, the real engine on the CPU and the page in a real Chromium among them
	@$(PY) -m tests.browser
	$(PY) -m pytest $(PARALLEL)

test-quick: install ## the tests of single parts, in about a minute
	$(PY) -m pytest $(PARALLEL) tests/unit

chaos: install ## kill, stop and starve the parts under load and check every job's history; half an hour, needs faketime
	nice $(PY) -m tests.chaos --plan full
	nice $(PY) -m tests.chaos --plan outage
	nice $(PY) -m tests.chaos --plan clock
	nice $(PY) -m tests.chaos --plan models
	nice $(PY) -m tests.chaos --plan disks
	nice $(PY) -m tests.chaos --plan leavers
	nice $(PY) -m tests.chaos --plan sentinel
	nice $(PY) -m tests.chaos --plan backup
	nice $(PY) -m tests.chaos.alerts

lint: install ## formatting, lint, types (those of the page and the boards where there is an npm), direction of imports, Dockerfiles, compose file
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/hadolint Dockerfile.api Dockerfile.worker
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory lint-page lint-boards; else echo "no npm here: the types of the page and the boards stay unchecked"; fi

# TypeScript is only the page's type checker: a program of its own in three seconds, from a lock file with hashes.
PAGE := api/page
$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package-lock.json
	npm ci --prefix $(PAGE) --silent --no-audit --no-fund --ignore-scripts
	@touch $@

lint-page: $(PAGE)/node_modules/.package-lock.json
	$(PAGE)/node_modules/.bin/tsc --project $(PAGE)

# Grafana's schema is a type, so each board becomes a constant of it.
BOARDS := ops/grafana
$(BOARDS)/node_modules/.package-lock.json: $(BOARDS)/package-lock.json
	npm ci --prefix $(BOARDS) --silent --no-audit --no-fund --ignore-scripts
	@touch $@

lint-boards: $(BOARDS)/node_modules/.package-lock.json $(PAGE)/node_modules/.package-lock.json
	@for board in $(BOARDS)/dashboards/*.json; do \
		{ echo 'import type { Dashboard } from "./@grafana/schema/dist/types/raw/dashboard/x/dashboard_types.gen";'; \
		echo 'export const board: Dashboard ='; cat $$board; } > $(BOARDS)/node_modules/$$(basename $$board .json).ts; done
	$(PAGE)/node_modules/.bin/tsc --noEmit --strict --skipLibCheck --types "" --module esnext --moduleResolution bundler $(BOARDS)/node_modules/*.ts

vendor: install $(PAGE)/node_modules/.package-lock.json ## copy the page's libraries anew, after a change in api/page/package.json
	$(PY) -m api.page.vendor

format: install ## put the code into form
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Hashed files instead of uv.lock: its text names the index that it was made with.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--override requirements/overrides.txt pyproject.toml
lock: | $(UV) ## resolve the requirement files anew
	$(LOCK) --extra api --extra otel --output-file requirements/api.txt
	$(LOCK) --extra cpu --extra otel --output-file requirements/worker-cpu.txt
	$(LOCK) --extra gpu --extra otel --output-file requirements/worker-gpu.txt
	$(LOCK) --extra api --extra gpu --extra demo --extra data --extra otel --group build --output-file requirements/gpu.txt
	$(LOCK) --extra api --extra cpu --extra demo --extra data --extra otel --group dev --output-file requirements/dev.txt

# What each image holds, by the files that fill it: CycloneDX, which scanners of vulnerabilities and licences read.
CYCLONEDX := $(UV) tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible
sbom: | $(UV) ## write the bill of materials of each image into dist/
	@mkdir -p dist
	@for part in api worker-cpu worker-gpu; do \
		$(CYCLONEDX) --output-file dist/sightline-$$part.cdx.json requirements/$$part.txt && echo "dist/sightline-$$part.cdx.json" || exit 1; \
	done

clean: ## remove what install made
	rm -rf $(VENV) $(GPU_VENV) .venv-uv $(PAGE)/node_modules
