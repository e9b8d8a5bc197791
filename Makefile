# Two commands to begin with: `make demo` and `make test`. Both make .venv first; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check format bench clean

demo: .venv/installed
	$(BIN)/python examples/emoji/demo.py

# Each file's tests in one of several processes, more than there are processors: a third of the time they wait.
# Files in the order of tests/conftest.py: by their number of tests, the longest one, which has a single test, came last.
test: .venv/installed-dev
	$(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder \
	  --numprocesses $$($(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

# One of the long tests looks at a page in Chromium, and fails where there is none: apt-get install chromium.
test-all: .venv/installed-all .venv-img2dataset/installed
	$(BIN)/python -m pytest -m ""

check: .venv/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy --num-workers 2
	$(BIN)/python -m pytest tests/test_layout.py

format: .venv/installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Says what it lacks; the comparison of ingest needs nginx and wallpaper packages of Debian.
bench: .venv/installed-dev
	failed=0; for script in bench/*.py; do echo "$$script"; $(BIN)/python $$script || failed=1; done; exit $$failed

clean:
	rm -rf build

# Its own step with its own stamp: an interrupted one leaves a python without a whole pip; begun again.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "clipkit needs Python 3.11 or newer; give one with: make PYTHON=python3.11 …" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --no-index pip >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	touch $@

.venv/installed: pyproject.toml .venv/made
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml .venv/made
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/installed $@

.venv/installed-all: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,gs,ray,spark,wandb]'
	touch $@

# It wants older versions than ours of what both need; of ours, what ingest needs: no torch.
.venv-img2dataset/installed: pyproject.toml .venv/made
	$(BIN)/python -m venv --clear .venv-img2dataset
	.venv-img2dataset/bin/python -m pip install --quiet img2dataset==1.47.0 \
	  'numpy>=2.0' 'pillow>=11.3' pyarrow pycurl pydantic rich simplejpeg typer
	touch $@
