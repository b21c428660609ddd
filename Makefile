# Everything runs in a virtual environment of its own; only Python 3.10 or newer and pip are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What pruned models are tried together with is only needed by tests, and slows every start of diffusers.
TEST_STAMP := $(VENV)/.installed-for-tests
# Tests of one file or class stay in one process, which makes their models once.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadscope

PAPER := table1 table2 table3_cogvideo table4_cogvideo table4_cogvideo_drop figure3_cogvideo \
         table3_tune_a_video table4_tune_a_video figure3_tune_a_video

RANKING := wan cogvideo tune_a_video

.PHONY: demo paper ranking test test-fast check clean

demo: $(STAMP)
	rm -rf runs/quickstart runs/quickstart.partial
	$(BIN)/f3core apply specs/quickstart.yaml

paper: $(STAMP)
	for name in $(PAPER); do \
	  case $$name in figure*) command=attention ;; table[12]) command=compare ;; *) command=sweep ;; esac; \
	  rm -rf runs/paper/$$name; \
	  $(BIN)/f3core $$command specs/paper/$$name.yaml || exit 1; \
	done

ranking: $(STAMP)
	for name in $(RANKING); do \
	  rm -rf runs/ranking_$$name; \
	  $(BIN)/f3core rank-study specs/ranking/$$name.yaml --axes layer,timestep,cell || exit 1; \
	done
	$(BIN)/python benchmarks/ranking.py $(RANKING:%=runs/ranking_%)

test: $(TEST_STAMP)
	$(BIN)/python -m pytest $(PARALLEL) --cov=f3core --cov-report=term --cov-fail-under=90

test-fast: $(TEST_STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[diffusers,zoo,dev]'
	touch $(STAMP)

$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[distill,metrics,tests]'
	touch $(TEST_STAMP)

clean:
	rm -rf $(VENV) build dist
