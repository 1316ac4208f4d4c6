# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where mypy looks: `kernels/` and `targets/` stand in their places inside `edgessl`.
VIEW := build/types
JOBS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help system install demo test lint format types unit bench clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The page of a benchmark is opened in a browser, and a benchmark is run over SSH: without these
# packages such tests are skipped.
system: ## Install Debian's chromium and openssh-server for the tests that need them (as root)
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends chromium chromium-driver openssh-server

demo: $(STAMP) ## From digits to a verified INT8 bundle, on this CPU
	$(BIN)/edgessl demo

test: lint types unit ## Everything that must pass

lint: $(STAMP) ## Style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Repair style and format where that can be done without a person
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy --strict
	rm -rf $(VIEW)/edgessl
	mkdir -p $(VIEW)/edgessl
	ln -s $(CURDIR)/edgessl/* $(CURDIR)/kernels $(CURDIR)/targets $(VIEW)/edgessl/
	cd $(VIEW) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	    --cache-dir $(CURDIR)/.mypy_cache edgessl

# One thread for each test process: the processes share the cores already.
unit: export OMP_NUM_THREADS := 1
unit: $(STAMP) ## pytest
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

bench: $(STAMP) ## Measure what the README states; writes benchmarks/results/
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## Remove what make and the demo wrote
	rm -rf $(VENV) build dist demo-out *.egg-info .mypy_cache .ruff_cache .pytest_cache
