# `make help` lists what there is. Everything runs in .venv, which is made when it is missing.

PYTHON ?= python3
VENV := .venv
EXTRAS := pipeline,export,s3,test,lint
READY := $(VENV)/.ready
EXTRAS_sweep := sweep,server
# What the linters check: your own code, anywhere else, is left alone.
HOUSE := src stages studies benchmarks docs examples tests tools

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
# A machine that is told to keep no bytecode compiles all of this project anew for every process.
unexport PYTHONDONTWRITEBYTECODE
# Many tests wait for processes that they start: one more at once than there are cores.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup setup-sweep setup-frameworks setup-docs setup-pictures new repro status dag gc wheel release show publish export register sweep test test-slow test-faults test-sweep test-frameworks check compare lint ui server docs docs-check docs-look pictures tutorial figures bench bench-compare bench-inference bench-sweep study-notebook study-lenet study-regimes study-colour study-oneshot study-map study-compression study-status study-recheck

##@ Start here

help: ## list the commands
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install into .venv (the others do this first)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into $(VENV): one to two minutes, once"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@# The pip that comes with an older Python takes twice as long to choose among the versions.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --upgrade pip
	@# pip compiles on one core what compileall compiles on all of them.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[$(EXTRAS)]'
	@$(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $(READY)

# What only some commands need: Ray, and a driver for PostgreSQL; MkDocs; Lightning, accelerate and
# transformers; Playwright.
setup-sweep setup-docs setup-frameworks setup-pictures: setup-%: $(VENV)/.ready-%

$(VENV)/.ready-%: $(READY)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[$(EXTRAS),$(or $(EXTRAS_$*),$*)]'
	@touch $@

repro: setup ## run what is out of date, print the comparison
	@python -m sparse_sam.config
	@began=$$(date +%s); dvc repro && { python -m sparse_sam.tracking.publish || true; } && \
		python -m sparse_sam.tracking.show && python -m sparse_sam.tracking.trainings --since $$began

new: setup ## start a project of your own (DIR=… FROM=…)
	@python -m sparse_sam.new $(if $(FROM),--from "$(FROM)") "$(or $(DIR),$(error name a folder: make new DIR=../my-experiment))"

##@ Results

show: setup ## print the comparison again
	@python -m sparse_sam.tracking.show

check: setup ## check results: this code's, and no worse (BASE=…)
	@python -m sparse_sam.evaluation.gate $(if $(BASE),--base $(BASE)); worse=$$?; \
		python -m stages.up_to_date >&2 && exit $$worse

status: setup ## list what `make repro` would run (VERBOSE=1)
	@python -m sparse_sam.config
	@python -m stages.inputs
	@python -m stages.status $(if $(VERBOSE),--verbose)

dag: setup ## list the stages (dvc dag evaluate draws them)
	@dvc stage list

##@ Tracking

compare: setup ## compare the runs in MLflow (MOST=…)
	@python -m sparse_sam.tracking.compare $(if $(MOST),--most $(MOST))

ui: setup ## start MLflow, print the address of the runs (PORT=…)
	@python -m sparse_sam.tracking.ui --port $(or $(PORT),5000)

publish: setup ## send MLflow what it lacks (EXPERIMENT=…)
	@python -m sparse_sam.tracking.publish $(if $(EXPERIMENT),--experiment "$(EXPERIMENT)")

server: setup-sweep ## start a team's MLflow server (HOST=… PORT=…)
	@MLFLOW_ARTIFACTS_DESTINATION="$${MLFLOW_ARTIFACTS_DESTINATION:-mlartifacts}" python -m mlflow server \
		--host $(or $(HOST),127.0.0.1) --port $(or $(PORT),5000)

##@ Share and ship

export: setup ## write a network as files, ONNX too (ARM=… SEED=…)
	@python -m sparse_sam.tracking.release $(if $(ARM),--arm $(ARM)) $(if $(SEED),--seed $(SEED))

register: setup ## export, and add it to MLflow's model registry
	@python -m sparse_sam.tracking.release --register $(if $(ARM),--arm $(ARM)) $(if $(SEED),--seed $(SEED)) \
		$(if $(BASE),--base $(BASE))

wheel: ## build the wheel into dist/
	@# Built anew: what lies in build/ would go into it, be it gone from src/ or not.
	@rm -rf build dist && python3 -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist

release: setup ## tag a version and build its wheel (VERSION=…)
	@python -m tools.release "$(or $(VERSION),$(error name the version: make release VERSION=0.2.0))"

gc: setup ## list unused files of the store (REMOVE=yes)
	@python -m sparse_sam.tracking.unused $(if $(filter yes,$(REMOVE)),--remove) $(if $(filter yes,$(SHARED)),--shared)

##@ Sweeps

sweep: setup-sweep ## run what is left of a sweep (FILE=… ADDRESS=…)
	@python -m sparse_sam.sweep $(or $(FILE),studies/regimes/lenet-300-100.yaml) $(if $(ADDRESS),--address $(ADDRESS))

bench-sweep: setup-sweep ## measure the sweep engine, into docs/sweeps.md
	@python benchmarks/sweep.py --keep --docs

##@ Studies

study-notebook: setup ## reproduce a notebook's faults (half an hour)
	@dvc repro studies/notebook/dvc.yaml

study-lenet: setup ## measure LeNets against compression (hours)
	@dvc repro studies/lenet/dvc.yaml

study-regimes: setup-sweep ## find where SAM pays, by sparsity (two hours)
	@dvc repro studies/regimes/dvc.yaml

study-colour: setup ## run on photographs (FOLDER=… PROJECT=…)
	@python -m studies.colour.run "$(FOLDER)" "$(PROJECT)"

study-oneshot: setup ## prune in one shot by every criterion (FOLDER=…)
	@python -m studies.oneshot.run choose $(if $(FOLDER),--folder "$(FOLDER)")
	@python -m studies.oneshot.run measure $(if $(FOLDER),--folder "$(FOLDER)")
	@python -m studies.oneshot.report

study-map: setup ## map where SAM pays (DIGITS=… COLOUR=…; goes on)
	@test -n "$(COLOUR)" || { echo "error: no folder of colour images: make study-map COLOUR=… (train/ and test/ in it, with a folder a class)" >&2; exit 1; }
ifeq ($(DEVICE),cuda)
	@for step in plan choose-dense choose measure control; do \
		python -m studies.map.run $$step whole --folder "$(COLOUR)" --device cuda || exit; \
	done
	@python -m studies.map.report whole
else
	@for step in choose-dense choose measure control; do \
		python -m studies.map.run $$step digits $(if $(DIGITS),--folder "$(DIGITS)") || exit; \
		python -m studies.map.run $$step colour --folder "$(COLOUR)" || exit; \
	done
	@python -m studies.map.run check-precision colour --folder "$(COLOUR)"
	@python -m studies.map.report
endif

study-compression: setup ## measure LeNets trained long (FOLDER=…; goes on)
	@for network in lenet-300-100 lenet-5; do for step in choose measure; do \
		python -m studies.compression.run $$step $$network $(if $(FOLDER),--folder "$(FOLDER)") || exit; \
	done; done
	@python -m studies.compression.report

study-status: setup ## show what changed since the studies ran
	@dvc status studies/notebook/dvc.yaml studies/lenet/dvc.yaml studies/regimes/dvc.yaml

study-recheck: setup ## recompute a part of each study (FOLDER=…)
	@python -m studies.recheck $(if $(FOLDER),--folder $(FOLDER))

##@ Develop

test: setup ## run the tests, including the pipeline once
	@$(PYTEST)

test-slow: setup ## run, cache, share, install in every way (slow)
	@$(PYTEST) -m slow

test-faults: setup ## kill, break and flood the pipeline (20 minutes)
	@OMP_NUM_THREADS=2 python -m pytest -m faults -p no:xdist

test-sweep: setup-sweep ## test sweeps on Ray and PostgreSQL (5 minutes)
	@OMP_NUM_THREADS=1 python -m pytest -m sweep -p no:xdist

test-frameworks: setup-frameworks ## test Lightning, accelerate, Trainer (2 minutes)
	@OMP_NUM_THREADS=1 python -m pytest -m frameworks -p no:xdist tests/frameworks

lint: setup ## check style, types and imports
	@ruff check $(HOUSE)
	@ruff format --check $(HOUSE)
	@mypy
	@lint-imports --no-logo --no-cache

docs: setup-docs ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 python -m mkdocs build --quiet
	@echo "site/index.html; its search needs a server: python -m http.server -d site"

docs-check: setup ## find dead links in site, report and pages
	@python -m tools.check_links

pictures: setup-pictures ## photograph report, README, terminal and MLflow
	@python -m tools.report_pictures
	@python -m tools.readme_picture
	@python -m tools.terminal_pictures
	@python -m tools.mlflow_pictures

docs-look: setup-pictures docs ## check contrast and width in Chromium
	@python -m tools.check_pages

tutorial: setup ## execute docs/tutorial.ipynb, save its outputs
	@python docs/make_tutorial.py

figures: setup ## update the README's table and picture
	@python docs/make_figures.py

bench: setup ## measure what everything costs here (an hour)
	@mkdir -p benchmarks/results
	@python benchmarks/sam_step.py --docs docs/sam.md --json benchmarks/results/sam_step.json
	@python benchmarks/data_path.py --keep --docs
	@python benchmarks/epoch.py --keep --docs
	@python benchmarks/step.py --compile --keep --docs
	@python benchmarks/scale.py --keep --docs
	@python benchmarks/memory.py --keep --docs
	@python benchmarks/obs.py --keep --docs
	@python benchmarks/pipeline.py --keep --docs
	@python benchmarks/pipeline.py --seeds 5 --rounds 3 --keep --docs
	@python benchmarks/summary.py
	@python benchmarks/compare.py || true

bench-compare: setup ## show what became slower since the last commit
	@python benchmarks/compare.py

bench-inference: setup ## measure exports, into docs/export.md
	@python benchmarks/inference.py --docs docs/export.md --json benchmarks/results/inference.json
