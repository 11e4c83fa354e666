# `make` alone lists the commands. Works with GNU make 3.81 and later, and a POSIX shell.

PYTHON ?= python3
VENV ?= .venv
DATASET ?= sample
PRESET ?=
DATA_DIR ?=
SEED ?= 0

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.installed-demo

.PHONY: help venv run report demo mirror test lint format lock notebook clean

help:
	@echo "make run        set everything up, run all stages, show where the results are"
	@echo "                  DATASET=$(DATASET) PRESET=$(or $(PRESET),sample or quick) SEED=$(SEED) DATA_DIR=$(DATA_DIR)"
	@echo "                  the real thing: make run DATASET=fer2013 PRESET=full"
	@echo "make report     build report/report.pdf from the results in report/results/"
	@echo "make demo       start a page to try models on: a picture or the camera, probabilities, maps"
	@echo "make mirror     start the Emoji Mirror: the live camera and the emoji of the expression"
	@echo "make test       set everything up and run the tests"
	@echo "make notebook   open the notebooks in JupyterLab"
	@echo "make venv       only set up: the virtual environment $(VENV), made with PYTHON=$(PYTHON)"
	@echo "make lint       check style, without changing anything"
	@echo "make format     fix style (pre-commit does that too, and strips notebooks)"
	@echo "make lock       pin the newest versions that fit together in requirements.lock (needs uv)"
	@echo "make clean      remove $(VENV) and caches; data/ and runs/ stay"

venv: $(STAMP)

# Installs the package with one of its extras. --no-compile, as by uv: Python compiles what is
# imported, a small part of what is installed.
define install
@if command -v uv >/dev/null 2>&1; then \
	uv pip install --quiet --python "$(BIN)/python" -e '.[$(1)]'; \
else \
	"$(BIN)/python" -m pip install --quiet --no-compile --disable-pip-version-check -e '.[$(1)]'; \
fi
endef

# The stamp comes last, so that an interrupted installation is continued.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is not one of them:" \
			"name one, for example make venv PYTHON=python3.12, or get one first: uv python install" \
			"3.12, the system's package manager, or python.org" >&2; exit 1; }
	@echo "Installing into $(VENV): some minutes, and some gigabytes, most of them for torch"
	@$(PYTHON) -m venv "$(VENV)"
	$(call install,dev)
	@touch "$@"

# Packages that only the two pages and their tests need.
$(DEMO): $(STAMP)
	@echo "Installing what the pages need into $(VENV)"
	$(call install,demo)
	@touch "$@"

run: $(STAMP)
	@"$(BIN)/python" -m fer_lib.pipeline --dataset "$(DATASET)" \
		--seed "$(SEED)" $(if $(PRESET),--preset "$(PRESET)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

report: $(STAMP)
	@"$(BIN)/python" -m fer_lib.report

demo: $(DEMO)
	@"$(BIN)/python" demo/gradio_app.py

mirror: $(DEMO)
	@"$(BIN)/python" -m streamlit run demo/emoji_mirror.py

# One thread for each of the two processes: more threads only wait for one another. A module is
# run whole by one process, both modules that use a browser by the same one, as are those that share
# a report, and the longest modules come first (tests/conftest.py).
test: $(DEMO)
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

lint: $(STAMP)
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .

format: $(STAMP)
	@"$(BIN)/ruff" check --fix .
	@"$(BIN)/ruff" format .

lock:
	@command -v uv >/dev/null 2>&1 || { echo "uv is needed: pip install uv" >&2; exit 1; }
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--no-annotate --extra dev --extra demo pyproject.toml -o requirements.lock

notebook: $(STAMP)
	@"$(BIN)/python" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

clean:
	@test ! -f "$(VENV)/pyvenv.cfg" || rm -rf "$(VENV)"
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find fer_lib tests -name __pycache__ -prune -exec rm -rf {} +
