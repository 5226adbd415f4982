# Every command of the project. `make help` lists them.
VENV ?= .venv
ARGS ?=#          more arguments for `kedro run`: make png_train ARGS="--params png.train.seed=1"
GRIDS ?=#         of conf/ablations, for `make ablations`
FAULTS_KILLS ?= 100# at least, for `make faults`
FAULTS_SEED ?= 0#  of the moments, files and bits
PYTEST_ARGS ?=#   more arguments for pytest: make test PYTEST_ARGS="-k manifest"
# Who may see the pages of `make viz` and `make mlflow`, which ask for no password: this machine.
BIND ?= 127.0.0.1
TORCH_ARGS ?=#    more arguments for pip when it installs torch, say an index of CPU builds

# The first Python that really runs and is new enough (a name on the PATH may be a mere shim).
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

# The mini networks are too small for several threads, which on shared cores wait for each other.
# A whole machine of your own may want OMP_NUM_THREADS=8 make png_train ARGS="--env paper".
export OMP_NUM_THREADS ?= 1
# Models and datasets are local folders: nothing is fetched, and nobody is told.
export HF_HUB_OFFLINE = 1
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true

# What MLflow's server says of a library of its own; nobody here can mend it.
MLFLOW_WARNINGS = ignore:starlette.middleware.wsgi is deprecated

.DEFAULT_GOAL := help
.PHONY: help install png_train ablations test benchmarks faults lint viz viz-static mlflow audit docs catalog_docs pictures clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed-dev  ## make .venv with everything, the tools of development too

png_train: $(VENV)/.installed  ## train the panoptic narrative grounding adapter on the mini world
	$(BIN)/kedro run --pipelines png_train $(ARGS)

ablations: $(VENV)/.installed  ## run GRIDS of notebooks, e.g. GRIDS="png_mlma"; without: name them
	$(BIN)/diffground ablate $(GRIDS)

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

benchmarks: $(VENV)/.installed-dev  ## measure what is claimed of speed and size, and print the table
	$(BIN)/python -m pytest -m benchmark tests/benchmarks -q $(PYTEST_ARGS)

faults: $(VENV)/.installed-dev  ## kill, fill, lock and damage all long jobs, and compare (half an hour)
	$(BIN)/python tests/faults/harness.py --kills $(FAULTS_KILLS) --seed $(FAULTS_SEED)

lint: $(VENV)/.installed-dev  ## check style, types and the borders between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

viz: $(VENV)/.installed  ## show the pipelines in a browser
	$(BIN)/kedro viz run --host $(BIND) $(ARGS)

viz-static: $(VENV)/.installed  ## build what `make viz` shows as files for any web server, build/viz
	rm -rf build/viz
	$(BIN)/kedro viz build --include-previews $(ARGS)
	mkdir build/viz
	find build -mindepth 1 -maxdepth 1 ! -name site ! -name viz -exec mv {} build/viz/ \;
	@echo "build/viz: a browser shows it from a server only, \`python -m http.server --directory build/viz --bind 127.0.0.1\`"

mlflow: $(VENV)/.installed  ## show the run log in a browser
	@test -n "$$MLFLOW_TRACKING_URI" -o -e mlflow.db \
		|| { echo "no run was logged here yet: try make png_train" >&2; exit 1; }
	PYTHONWARNINGS='$(MLFLOW_WARNINGS)' \
		$(BIN)/mlflow ui --host $(BIND) --workers 1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" $(ARGS)

audit: $(VENV)/.installed-dev  ## ask PyPI which pinned packages have known faults (needs a network)
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

docs: $(VENV)/.installed-dev  ## build the documentation site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html: open it in a browser, from the disk or any server"

catalog_docs: $(VENV)/.installed  ## write catalog_docs/catalog anew from the catalog
	$(BIN)/python -m diffground.adapters.catalog_docs

pictures: $(VENV)/.installed  ## write the pictures of README and the documentation anew
	$(BIN)/python -m diffground.adapters.pictures

clean:  ## remove the environment and the caches; data and the run log stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .viz
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, so that no other requirement can choose its build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "diffground needs Python 3.11 or newer, and none of python3.11," \
		"python3.12, python3.13 and python3 is one. Install it, or name it:" \
		"make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(PIP) $(TORCH_ARGS) torch==2.13.0
	$(PIP) -e .
	@echo "building the compiled dense CRF (half a minute) ..."
	@$(PIP) -q -e '.[crf]' >$(VENV)/crf.log 2>&1 || echo "... it cannot be built here: that takes a" \
		"C++ compiler and a Python below 3.13 ($(VENV)/crf.log). The dense CRF runs in torch" \
		"instead: the same masks, in about twice the time."
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@
