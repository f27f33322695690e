# make demo: a small ablation on embedded images, from nothing to the printed tables.
# make test: everything that CI runs.
# make bench: every claim of speed but those of scale, measured in short (fewer repeats, smaller batches).
# make bench-full: with all repeats and at full size, and how it scales, more than an hour on two cores.
# Both print tables and leave results/benchmarks/SUBJECT.json; nothing else should run meanwhile.
# make lint: rules, format and types of the Python code, by ruff and mypy, about a minute when nothing is cached.
# All make .venv when it is missing or requirements.txt has changed since, and build the extension when its sources have.
# Everything installed is byte-compiled once, or every start would pay where PYTHONDONTWRITEBYTECODE is set; packages ship
# some files for newer Pythons, which do not compile and are not imported.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

BENCHMARKS := head step evaluation loader sweep report
SCALE := plan scale mirror

.PHONY: demo test bench bench-full setup

demo: setup
	$(RUN) -m orchestrator.sweep sweeps/demo.yaml

test: setup
	$(RUN) -m pytest

bench: setup
	@mkdir -p results/benchmarks
	@for subject in $(BENCHMARKS); do \
	  $(RUN) -m benchmarks.$$subject --short --output results/benchmarks/$$subject-short.json || exit; done
	@$(RUN) -m benchmarks.summary $(BENCHMARKS:%=results/benchmarks/%-short.json)

.PHONY: lint
lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench-full: setup
	@mkdir -p results/benchmarks
	@for subject in $(BENCHMARKS) $(SCALE); do \
	  $(RUN) -m benchmarks.$$subject --output results/benchmarks/$$subject.json || exit; done
	@$(RUN) -m benchmarks.summary $(addprefix results/benchmarks/,$(addsuffix .json,$(BENCHMARKS) $(SCALE)))

setup:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} is not 3.11 to 3.13; name another with: make PYTHON=python3.12")'
	@cmp -s requirements.txt $(VENV)/requirements.installed || { \
	  echo "installing requirements.txt into $(VENV) (torch and its CUDA libraries: about 6 GB)"; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
	  $(RUN) -m pip install --quiet --requirement requirements.txt && \
	  cp requirements.txt $(VENV)/requirements.installed && \
	  { $(RUN) -m compileall -qq $(VENV)/lib || true; }; }
	@$(RUN) setup.py --quiet build_ext --inplace
