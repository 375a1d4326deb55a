# The whole project from a machine with Python 3.11+, make and a package index.
# Two targets at once would install into the same .venv.
.NOTPARALLEL:
.PHONY: demo test check nightly lint house docs bench platform lock clean

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

# Two locked sets share .venv: what runs the product, and what develops it, which holds the first with the same pins.
# `make demo` installs the first alone; an environment that has the second keeps it.
RUN := .venv/.run
DEVELOP := .venv/.develop
PRODUCT := $(if $(wildcard $(DEVELOP)),$(DEVELOP),$(RUN))

# The tests of a file share what its fixtures make, so a process gets whole files, in the order of tests/conftest.py.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=15 --durations-min=10

demo: $(PRODUCT)
	$(BIN)/imagen demo

test: $(DEVELOP)
	$(PYTEST) -m "not nightly" tests

# For daily work: lint, and the tests that are not marked `slow`.
check: lint
	$(PYTEST) -m "not nightly and not slow" tests

# What is long, or needs a store that is not from PyPI (Debian: radosgw ceph-mon ceph-osd ceph-common).
nightly: $(DEVELOP)
	$(BIN)/pytest -m nightly tests

lint: $(DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house --rules

# Folders with their files and lines, the imports between them, and the rules that are broken.
house: $(DEVELOP)
	$(BIN)/python -m tests.house

# The site, in build/site; warnings are errors. It writes docs/cli.md anew, which is committed.
docs: $(DEVELOP)
	rm -rf build/site
	$(BIN)/python -m docs.site.build

bench: $(DEVELOP)
	$(BIN)/python -m tests.bench

# What the image of infra/Dockerfile has: the product and its optional parts, with the developers' pins.
platform: $(PRODUCT)
	$(UV) pip install --compile-bytecode --python $(BIN)/python --constraint requirements-dev.lock \
		--excludes requirements-unused.txt --no-build-isolation --editable ".[docker,kubernetes,ray,redis]"

# The locks hold versions and hashes and no addresses, so that any mirror serves. UPGRADE= keeps the versions they have.
UPGRADE ?= --upgrade
COMPILE = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet $(UPGRADE)

lock: | $(UV)
	$(COMPILE) --excludes requirements-unused.txt --output-file requirements.lock
	$(COMPILE) --extra dev --constraints requirements.lock --output-file requirements-dev.lock

$(UV):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(RUN): requirements.lock
$(DEVELOP): requirements-dev.lock
$(RUN) $(DEVELOP): pyproject.toml | $(UV)
	rm -f $(RUN) $(DEVELOP)
	$(UV) pip sync --compile-bytecode --python $(BIN)/python $(filter %.lock,$^)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv
