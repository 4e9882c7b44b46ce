# Every target brings .venv up to date first; when it is, that takes a quarter of a second.
PYTHON ?= python3
ARGS ?=
VPY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install run test soak check bench fuzz

help: ## Print this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf 'make %-8s %s\n' "$$name" "$$text"; done
	@echo 'PYTHON=python3.13 chooses the interpreter (3.11 or newer), ARGS="..." is passed to run, test, soak, bench and fuzz.'

# The version is asked for in words that any Python understands; tools/install.py may then use the language of 3.11.
define install
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo 'No "$(PYTHON)" found. Install Python 3.11 or newer, or name one: make $@ PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Greenroom needs Python 3.11 or newer; "$(PYTHON)" is' "$$("$(PYTHON)" -V 2>&1)". 'Name another: make $@ PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" tools/install.py $(1)
endef

install: ## Make or refresh .venv with the development tools
	$(call install,cli dev)

run: ## Run the example in examples/invoices
	$(call install,cli dev)
	@$(VPY) -m examples.invoices $(ARGS)

test: ## Run the tests, two at a time (ARGS="-n 0 ..." for one)
	$(call install,cli dev)
	@$(VPY) -m pytest -n 2 --dist worksteal $(ARGS)

soak: ## Kill durable runs thousands of times (ten minutes or so; GREENROOM_SOAK=30 for longer)
	$(call install,cli dev)
	@GREENROOM_SOAK=$${GREENROOM_SOAK:-10} $(VPY) -m pytest -rP tests/crash $(ARGS)

check: ## Lint, formatting, types, layers
	$(call install,cli dev)
	$(VPY) -m ruff check .
	$(VPY) -m ruff format --check .
	$(VPY) -m mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VPY) -m pyright
	.venv/bin/lint-imports

bench: ## Measure against the peers, which it installs
	$(call install,cli dev bench)
	@$(VPY) -m benchmarks $(ARGS)

FUZZ_LIMITS := -runs=200000 -max_len=512 -timeout=10 -rss_limit_mb=1024

fuzz: ## Fuzz the decoder and the reader of snapshots, bounded (Python 3.11)
	$(call install,cli dev fuzz)
	@$(VPY) fuzz/codec.py $(FUZZ_LIMITS) $(ARGS)
	@$(VPY) fuzz/snapshot.py $(FUZZ_LIMITS) -runs=20000 -max_len=2048 $(ARGS)
