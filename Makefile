# One command for people and for CI. Everything runs in .venv, made from requirements.lock; a stamp makes the second
# call quick. `make test PYTHON=/path/to/python3.12` chooses the interpreter; ETL_DSN another server than the temporary
# one (its user must be allowed to create databases), ETL_PG_BIN another PostgreSQL for the temporary one.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
	$(name) -c 'import sys; assert sys.version_info >= (3, 11); print("$(name)")' 2>/dev/null)))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := $(VENV)/.installed-peers
STORE  := build/object-store/.installed
UV     := $(BIN)/uv
PIP_AUDIT_VERSION := 2.10.1
AUDIT  ?= build/audit/bin/pip-audit
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

# Install $(2) into the environment $(1). uv takes seconds for what takes pip minutes; pip, which brings uv, does it where
# uv cannot, for it reads pip's settings. Nothing is compiled ahead: Python does that when a module is first used.
PIP     = $(BIN)/python -m pip --disable-pip-version-check --no-input
install = $(UV) pip install --quiet --python $(1)/bin/python $(2) || $(PIP) --python $(1)/bin/python install --quiet --no-compile $(2)

# Tests start hundreds of Pythons; without bytecode each of them would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

# Most tests wait for a server, so there are more workers than cores.
TEST_WORKERS ?= 4

# Extra words for the tool behind a target: make test ARGS="-k overlap -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo cluster-demo test test-faults test-all fuzz lint lint-style lint-types lint-imports lint-notebooks format lab \
	notebooks bench bench-peers bench-shapes report picture lock audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv with the locked dependencies and this package

$(UV): requirements-uv.lock
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	-$(PIP) install --quiet --no-compile --require-hashes -r $<
	@touch $@

$(STAMP): requirements.lock pyproject.toml | $(UV)
	$(call install,$(VENV),--no-deps --require-hashes -r $<)
	$(call install,$(VENV),--no-deps --no-build-isolation --editable .)
	@touch $@

$(PEERS): requirements-peers.lock $(STAMP)
	$(call install,$(VENV),--no-deps --require-hashes -r $<)
	@touch $@

# The store that the tests of S3 talk to. It is no part of .venv, since it wants other versions of what is there.
$(STORE): requirements-object-store.lock | $(UV)
	@test -x $(@D)/bin/python || $(BIN)/python -m venv --without-pip $(@D)
	$(call install,$(@D),--no-deps --require-hashes -r $<)
	@touch $@

demo: $(STAMP) ## generate 3 CSV + 3 Parquet files, load them, quick sweep, HTML report
	$(BIN)/python -m etl_toolkit demo $(ARGS)

cluster-demo: $(STAMP) ## load the same files by one process, threads, processes and Dask; compare the hashes of all rows
	$(BIN)/python docs/cluster_demo.py $(ARGS)

test: $(STAMP) $(STORE) ## the tests, against temporary PostgreSQLs (or ETL_DSN)
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist worksteal $(ARGS)

test-faults: $(STAMP) ## the tests that kill servers, workers and connections
	$(BIN)/python -m pytest -m faults $$(grep -l mark.faults tests/*.py) --numprocesses $(TEST_WORKERS) --dist worksteal $(ARGS)

test-all: test test-faults ## both

# Fresh seeds each time, so it is no part of the gate; the gate replays tests/fuzz/seeds.txt.
MINUTES ?= 10
fuzz: $(STAMP) ## random loads against the oracle for MINUTES=10; SEED=… replays one of them
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED),--minutes $(MINUTES)) $(ARGS)

lint: lint-style lint-types lint-imports lint-notebooks ## ruff, mypy, import-linter, notebooks without outputs

lint-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(STAMP)
	$(BIN)/python -m mypy

lint-imports: $(STAMP)
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()'

lint-notebooks: $(STAMP)
	$(BIN)/python -m nbstripout --verify notebooks/*.ipynb

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m nbstripout notebooks/*.ipynb

lab: $(STAMP) ## open the notebooks in JupyterLab
	@git config filter.nbstripout.clean '$(BIN)/python -m nbstripout --extra-keys "metadata.language_info.version metadata.language_info.mimetype metadata.language_info.codemirror_mode metadata.language_info.file_extension metadata.language_info.nbconvert_exporter metadata.language_info.pygments_lexer"' 2>/dev/null || true
	$(BIN)/python -m jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

notebooks: $(STAMP) ## run every notebook with its smallest parameters
	$(BIN)/python -m pytest tests/test_notebooks.py $(ARGS)

bench: $(STAMP) ## the full sweep and its report
	$(BIN)/python -m etl_toolkit bench $(ARGS)

report: $(STAMP) ## render the newest run directory, of make demo or make bench, again
	$(BIN)/python -m etl_toolkit report $(ARGS)

picture: $(STAMP) ## draw the README's picture from what the demo prints
	$(BIN)/python -m etl_toolkit demo --skip-bench $(ARGS) | $(BIN)/python docs/picture.py >build/demo.svg && mv build/demo.svg docs/demo.svg

bench-peers: $(PEERS) ## the same workload through other loaders
	$(BIN)/python -m etl_toolkit bench --preset peers $(ARGS)

bench-shapes: $(STAMP) ## tables and files as people have them: ours against the best plain way
	$(BIN)/python -m etl_toolkit bench --preset shapes $(ARGS)

lock: $(UV) ## resolve pyproject.toml again into the requirements*.lock
	echo uv | $(UV) pip compile - --upgrade $(LOCK) --output-file requirements-uv.lock
	$(UV) pip compile pyproject.toml --extra all --upgrade $(LOCK) --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra bench-peers --upgrade $(LOCK) --constraints requirements.lock --output-file requirements-peers.lock
	$(UV) pip compile tests/object_store.in --upgrade $(LOCK) --output-file requirements-object-store.lock

# Without --strict a package that the advisory service does not know counts as one without a vulnerability. It has an
# environment of its own: what looks at the dependencies is none of them.
audit: | $(UV) ## look for known vulnerabilities of the locked dependencies, or say why that is not possible here
	@mkdir -p build; test -x "$(AUDIT)" || { $(BIN)/python -m venv --without-pip build/audit && \
		{ $(call install,build/audit,pip-audit==$(PIP_AUDIT_VERSION)); }; } >build/audit.log 2>&1 || \
		{ echo "not audited: pip-audit cannot be installed here: $$(tail -n 1 build/audit.log | cut -c 1-200)"; exit 0; }; \
	code=0; "$(AUDIT)" --strict --disable-pip --progress-spinner off --requirement requirements.lock 2>build/audit.log || code=$$?; \
	if grep -q 'known vulnerabilit' build/audit.log; then tail -n 1 build/audit.log; exit $$code; fi; \
	echo "not audited: $$(tail -n 1 build/audit.log | cut -c 1-200)"

clean: ## remove .venv, caches and what runs left behind (not the embedded server's data)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
