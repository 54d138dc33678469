# make run    set up, reproduce the noisy-Rosenbrock figure at quick scale
# make test   set up, run the tests
# Both are safe to repeat; PYTHON=python3.12 chooses another interpreter (>= 3.11).
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
SCALE ?= quick

.PHONY: run test setup check lock clean

run: setup
	$(BIN)/python -m scripts.reproduce scale=$(SCALE) experiments=rosenbrock_noise

test: setup
	$(BIN)/python -m pytest

# lint, format and types, as CI checks them
check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

setup: .venv/ready

# Everything from the lock, hashes checked. Made again when the lock or the metadata change.
.venv/ready: requirements.lock pyproject.toml
	$(MAKE) --no-print-directory --always-make .venv/bin/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@touch $@

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 needed, $(PYTHON) is {v}: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# New versions of everything: edit pyproject.toml, then this, then `make test`.
lock: .venv/bin/uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--extra bench --extra cluster --extra dev --extra fairseq pyproject.toml -o requirements.lock

clean:
	rm -rf .venv results/runs results/.hydra results/.code results/.collected results/tidy.parquet results/runs.parquet
