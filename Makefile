# `make lab` opens the course, `make test` tests it. `make help` lists the rest.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
JOBS ?= 2

# Tests run with one thread per process, so that sums come out in the same order, and two processes at once.
# `make test THREADS=2 JOBS=1` tries another order. The limit per cell is there for cells that hang, not for slow ones.
THREADS ?= 1
TEST := OMP_NUM_THREADS=$(THREADS) NL_COURSE_STRICT=1 $(BIN)/python -m pytest
UNIT := --ignore=tests/peers --ignore=tests/browser -n $(JOBS)
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600 -n $(JOBS) --dist loadfile

# The instructions that any x86-64 machine has, for PyTorch, MKL and oneDNN: sums come out in another order.
# MKL heeds the first of its two variables on Intel's processors only, the second everywhere.
REDUCED := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41

.PHONY: help lab test fast portable mutants lint notebooks shots bench gpu export peers

help: ## list what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

lab: $(READY) ## make the environment if need be, and open your own copy of the course
	$(BIN)/nl-course lab

test: $(READY) lint ## every test: units, structure, notebooks, browser
	$(TEST) $(UNIT)
	$(if $(NOTEBOOKS),$(TEST) $(NBVAL) $(NOTEBOOKS))
	$(TEST) tests/browser

fast: $(READY) lint ## ruff and the unit tests, under a minute
	$(TEST) $(UNIT) -m "not slow and not gpu"

portable: $(READY) ## notebooks and units with the instructions that every machine has (ONLY=notebooks: these alone)
	$(if $(NOTEBOOKS),$(REDUCED) $(TEST) $(NBVAL) $(NOTEBOOKS))
	$(if $(filter notebooks,$(ONLY)),,$(REDUCED) $(TEST) $(UNIT))

mutants: $(READY) ## edit the package carelessly in many places, one at a time: each time the tests must notice
	NL_COURSE_MUTANTS=all $(TEST) -n $(JOBS) tests/mutants

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: $(READY) ## run all notebooks in place, in their committed form
	$(BIN)/python -m tools.run_notebooks

shots: $(READY) ## photograph every notebook into shots/, every view into assets/previews/
	$(BIN)/python -m tools.shots

bench: $(READY) ## speed and memory beside a bare layer, slider to redraw and what figures weigh in the browser
	$(BIN)/python -m nl_course.benches
	$(BIN)/python -m tests.browser.latency
	$(BIN)/python -m tests.browser.weight

gpu: $(READY) ## on a CUDA GPU: its tests, then speed and memory of every memory, in at most eight minutes
	$(BIN)/python -m nl_course.benches.gpu

export: $(READY) ## the whole course as static pages and slides, in site/
	$(BIN)/nl-course export site

peers: $(READY) ## compare with other people's implementations, in an environment of their own (Linux)
	sh tools/peers.sh

$(READY): pyproject.toml constraints.txt tools/environment.sh
	@PYTHON="$(PYTHON)" TORCH_FLAGS="$(TORCH_FLAGS)" sh tools/environment.sh
