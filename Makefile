# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Everything is installed into .venv; system packages by apt.

VENV    ?= .venv
PYTHON  ?= python3
PY      := $(VENV)/bin/python
KERNEL  ?= newest
GUEST   := sandboxes/guest/run
IN_GUEST := pytest -q -p no:cacheprovider
KERNELS := $(if $(filter all,$(KERNEL)),newest oldscx noscx lts,$(KERNEL))

.DEFAULT_GOAL := help
.PHONY: help demo test check guest-test bench soak bpf clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/ready ## three agents on too little memory, under four policies: one table, one picture
	$(PY) sandboxes/demo.py

test: $(VENV)/ready ## unit, contract, property and fuzz tests here, then the short sets in guests
	$(VENV)/bin/pytest

check: $(VENV)/ready ## format, lint, types
	$(VENV)/bin/ruff format --check agentcgroup tests sandboxes
	$(VENV)/bin/ruff check agentcgroup tests sandboxes
	$(VENV)/bin/mypy

guest-test: $(VENV)/ready ## every guest test on KERNEL=newest|oldscx|noscx|lts|all
	@set -e; for kernel in $(KERNELS); do \
	  echo "== guest tests on $$kernel"; \
	  $(GUEST) --kernel $$kernel --timeout 5400 -- $(IN_GUEST) -m 'not soak and (long or campaign or guest)' /src/tests/guest /src/tests/contract; \
	  $(GUEST) --kernel $$kernel --systemd --timeout 1800 -- $(IN_GUEST) -m systemd /src/tests/guest; \
	done

bench: $(VENV)/ready ## the benchmarks, in the guest; results in out/bench/
	$(PY) tests/bench/run.py --kernel $(KERNEL)
	$(PY) tests/bench/simulated.py
	$(PY) tests/bench/simulator.py
	$(PY) tests/bench/rate.py

soak: $(VENV)/ready ## 10,000 tool calls that leave page cache, in the guest
	$(GUEST) --kernel $(KERNEL) --timeout 7200 -- $(IN_GUEST) -m soak /src/tests/guest

bpf: ## compile the BPF objects into agentcgroup/_built/
	$(MAKE) -C bpf

clean: ## remove what was built here (the guests' cache stays)
	$(MAKE) -C bpf clean
	$(MAKE) -C sandboxes/shim clean
	rm -rf $(VENV) out build dist agentcgroup/_built .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/ready: pyproject.toml sandboxes/setup.sh
	PYTHON=$(PYTHON) sandboxes/setup.sh $(VENV)
	touch $@
