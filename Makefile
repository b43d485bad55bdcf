# Sets itself up: needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Two processes of tests; one that has none left takes over from the other.
WORKERS = --numprocesses 2 --dist worksteal
BROWSERS = chromium chromium-browser google-chrome google-chrome-stable chrome

.PHONY: setup browser demo test test-all oldest coverage check docs release-check

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --editable .
	touch $@

browser:  ## for the page of a report: chromium from the system's packages, if there is no browser and this is root
	@for name in $$BROWSER_FOR_TESTS $(BROWSERS); do command -v "$$name" >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive && \
		apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
	echo "There is no browser, and none can be installed from here: tests that need one say how to get it." >&2

demo: setup  ## two manipulations of handwritten digits, eight methods, and a report
	WANDB_MODE=disabled $(RUN) -m cmu_lightning sweep sweeps/demo_digits --workers 2 --runs_dir runs
	$(RUN) -m cmu_lightning report runs --out report

test: setup  ## all tests but those that start processes, a browser or the client of W&B
	$(RUN) -m pytest -m "not slow" $(WORKERS)

test-all: setup browser  ## all tests
	$(RUN) -m pytest $(WORKERS)

oldest: setup browser  ## all tests, with the oldest versions of everything that pyproject.toml takes
	$(PYTHON) -m venv .oldest
	$(VENV)/bin/uv pip install --quiet --no-config --python .oldest/bin/python --resolution lowest-direct \
		--editable '.[dashboards,export,pcam,search]' --group dev
	.oldest/bin/python -m pytest -W default $(WORKERS)

coverage: setup browser  ## all tests, and how many lines of the package they reach
	$(RUN) -m pytest $(WORKERS) --cov=cmu_lightning --cov-report=term

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

docs: setup  ## the documentation site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

release-check: setup  ## source archive and wheel in dist/, their metadata, and the quickstart from the wheel alone
	rm -rf dist .release
	$(VENV)/bin/uv build --quiet --out-dir dist
	$(VENV)/bin/twine check --strict dist/*
	$(PYTHON) -m venv .release
	$(VENV)/bin/uv pip install --quiet --python .release/bin/python dist/*.whl
	cd .release && WANDB_MODE=disabled bin/python -m cmu_lightning fit --config poison_digits.yaml --config unlearn/cf.yaml \
		--data.identified 0.1 --threads 1 --runs_dir runs && bin/cmu-lightning report runs --out report
