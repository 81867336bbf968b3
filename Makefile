# Everything a person types; 'make' alone lists it. Python 3.11 or newer: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV ?= .venv
# On a Linux machine without a GPU, spare yourself gigabytes of CUDA with pip's index of CPU builds of torch:
# make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# two processes, each test file in one of them: what the tests of a file share is made once
TWO := -n 2 --dist loadfile

.PHONY: help install demo test test-slow test-browser test-engines check bench clean

help:
	@echo "make demo       set up, ingest the bundled sample, answer three questions"
	@echo "make test       set up, run the whole test suite (under 5 minutes)"
	@echo "make test-slow  the long ones: 200 kill -9 during ingests, the real encoder end to end"
	@echo "make test-browser  the page in a headless Chromium (Debian: apt install chromium chromium-driver)"
	@echo "make test-engines  Milvus, PostgreSQL and Ray, with real ones started here (installs Ray: 80 MB)"
	@echo "make check      lint and type checks"
	@echo "make bench      the benchmark tables of the README (needs ../shared/data)"

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --progress-bar off $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $(READY)

install: $(READY)

demo: $(READY)
	$(PY) cli.py demo

test: $(READY)
	$(PY) -m pytest $(TWO)

test-slow: $(READY)
	$(PY) -m pytest -m slow

test-browser: $(READY)
	$(PY) -m pytest -m browser

test-engines: $(VENV)/.ready-ray
	$(PY) -m pytest $(TWO) -m "not browser and not benchmark" tests/test_engines.py tests/test_milvus.py tests/test_postgres.py tests/test_database.py tests/test_shards.py tests/test_ray.py

$(VENV)/.ready-ray: $(READY)
	$(PY) -m pip install --quiet --progress-bar off $(PIP_FLAGS) -c constraints.txt -e '.[dev,ray]'
	touch $@

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(READY)
	$(PY) cli.py bench ingest ../shared/data/enwiki/AA
	$(PY) cli.py bench search --collection wiki --questions ../shared/data/squad/squad-v2.0-dev-part1.json
	$(PY) cli.py bench serve --collection wiki --questions ../shared/data/squad/squad-v2.0-dev-part1.json
	$(PY) cli.py bench predictors --dim 768

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
