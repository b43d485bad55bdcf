# Sets itself up: needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: setup demo test oldest coverage check

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --editable .
	touch $@

demo: setup  ## two manipulations of handwritten digits, all methods, and a report
	WANDB_MODE=disabled $(RUN) -m cmu_lightning sweep sweeps/demo_digits --workers 2 --runs_dir runs
	$(RUN) -m cmu_lightning report runs --out report

test: setup
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

oldest: setup  ## the tests, with the oldest versions of everything that pyproject.toml takes
	$(PYTHON) -m venv .oldest
	$(VENV)/bin/uv pip install --quiet --no-config --python .oldest/bin/python --resolution lowest-direct \
		--editable '.[dashboards,export,pcam,search]' --group dev
	.oldest/bin/python -m pytest -W default --numprocesses 2 --dist loadfile --no-loadscope-reorder

coverage: setup  ## in one process
	$(RUN) -m pytest --cov=cmu_lightning --cov-report=term

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
