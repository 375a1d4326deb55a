# The whole project from a machine with Python 3.11+, make and a package index.
.PHONY: demo test nightly lint bench lock clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

demo: $(READY)
	$(BIN)/imagen demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadgroup -m "not nightly" tests

# What is long, or needs a store that is not from PyPI (Debian: radosgw ceph-mon ceph-osd ceph-common).
nightly: $(READY)
	$(BIN)/pytest -m nightly tests

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m tests.bench

# The lock holds versions and hashes and no addresses, so that any mirror serves.
lock: | $(BIN)/uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade -q -o requirements.lock

$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(READY): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv
