# make demo: a small ablation on embedded images, from nothing to the printed tables.
# make test: the tests, in two processes.
# make test-full: those that make test leaves out: they take minutes or need other programs (Ray on several nodes,
# PostgreSQL, Slurm, LaTeX, Chromium), and each has the machine to itself. CI runs both.
# make bench: every claim of speed but those of scale, measured in short (fewer repeats, smaller batches), and how often
# the tables' intervals and verdicts are right, by simulation.
# make bench-full: with all repeats and at full size, how it scales, and an A/A test on trained models, more than an hour
# on two cores.
# Both print tables and leave results/benchmarks/SUBJECT.json; nothing else should run meanwhile.
# make lint: rules, format and types of the Python code, by ruff and mypy, about a minute when nothing is cached.
# All make .venv when it is missing or requirements.txt has changed since, and build the extension when its sources have.
# Everything installed is byte-compiled once, or every start would pay where PYTHONDONTWRITEBYTECODE is set; packages ship
# some files for newer Pythons, which do not compile and are not imported.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

BENCHMARKS := head step evaluation methods alignment loader sweep report statistics sequential claims
SCALE := plan scale mirror file_calls aa

# Of pip's lines those on large downloads, and the one on installing.
SHOW_PIP := sed -unE 's/^ *(Downloading|Using cached) ([^-]+-[^-]+).* \(([0-9]{2,}[0-9.]* MB|[0-9.]+ GB)\)$$/  \2, \3/p; \
  s/^Installing collected packages.*/  unpacking them/p'
LOG := build/extension.log

SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: demo test test-full bench bench-full setup

demo: setup
	$(RUN) -m orchestrator.sweep sweeps/demo.yaml

test: setup
	$(RUN) -m pytest -n 2 -m "not full"

test-full: setup
	$(RUN) -m pytest -m full

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
	  echo "installing requirements.txt into $(VENV): about 6 GB, of which most is torch and its CUDA libraries"; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
	  $(RUN) -m pip install --progress-bar off --requirement requirements.txt | $(SHOW_PIP) && \
	  cp requirements.txt $(VENV)/requirements.installed && \
	  echo "  compiling their Python" && { $(RUN) -m compileall -qq $(VENV)/lib || true; }; }
	@mkdir -p build
	@compgen -G 'dmf/ops/_C.*' >/dev/null || echo "compiling the operator; what the compiler says is in $(LOG)"
	@$(RUN) setup.py --quiet build_ext --inplace >$(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }
