# `make demo` and `make test` do all their own set-up, from a machine with Python 3.11 and pip.
UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := .venv/bin

.PHONY: help setup demo test faults fidelity check audit bench clean
help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/.installed ## install the program into .venv (.venv/bin/banjia)

# `pip --target` works on Debian without python3-venv, and beside an externally managed Python.
$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --target .uv uv==$(UV_VERSION)

.venv/.installed: pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --quiet --python python3
	@touch $@

demo: setup ## move twelve mailboxes between two mail servers on this machine
	$(RUN)/banjia demo

test: setup ## run every test, against real mail servers that are installed and started here
	tests/setup/install_servers
	$(RUN)/pytest --numprocesses 2 --dist loadfile

faults: setup ## end runs at their steps and cut their connections, and print what came of it; 15 minutes (docs/reliability.md)
	tests/setup/install_servers
	$(RUN)/python -m tests.faults --json var/faults.json
	$(RUN)/pytest -q --numprocesses 2 tests/faults/test_proxy.py -k cut_anywhere --cut-every 1024

fidelity: setup ## move odd mail, or that below BANJIA_CORPUS, through all pairs of three servers; a minute (docs/fidelity.md)
	tests/setup/install_servers
	$(RUN)/python -m tests.fidelity --json var/fidelity.json

check: setup ## the quick checks before a commit: style, types, import contract, documentation
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-cache
	$(RUN)/pytest -q tests/docs

# Make itself ends with 2 whatever fails: `.ci/audit` alone tells by its code whether the data could be had (75 if not).
audit: | $(UV) ## ask OSV for known vulnerabilities of all that is locked; says so when it cannot be reached
	.ci/audit

BENCH := var/benchmarks
bench: setup ## measure the copier beside mbsync, its growth, and a wave; an hour (docs/performance.md)
	tests/setup/install_servers
	mkdir -p $(BENCH)
	$(RUN)/python -m benchmarks.run --shape small,real,folders --latency 0,20,60 --json $(BENCH)/first.json
	$(RUN)/python -m benchmarks.run --mailboxes 32 --messages 500 --latency 40 --cap 8 --runs 3 --json $(BENCH)/many.json
	$(RUN)/python -m benchmarks.growth --json $(BENCH)/growth.json
	$(RUN)/python -m benchmarks.wave --json $(BENCH)/wave.json
	$(RUN)/python -m benchmarks.chart $(BENCH)/first.json $(BENCH)/growth.json --out $(BENCH)

clean: ## remove what the targets above made
	rm -rf .uv .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
