# `make help` lists what there is. Everything runs in .venv, which is made when it is missing.

PYTHON ?= python3
VENV := .venv
EXTRAS := pipeline,export,s3,test,lint
READY := $(VENV)/.ready
READY_SWEEP := $(VENV)/.ready-sweep
# What is judged: code of your own, wherever else it lies, is yours.
HOUSE := src stages studies benchmarks docs examples tests

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
# A machine that is told to keep no bytecode compiles all of this project anew for every process.
unexport PYTHONDONTWRITEBYTECODE
# Many tests wait for processes that they start: one more at once than there are cores.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup setup-sweep new repro status gc show publish export register sweep test test-slow test-faults test-sweep check lint ui server figures bench bench-compare bench-inference bench-sweep study-notebook study-lenet study-regimes study-colour study-status study-recheck

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-16s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with the pinned dependencies (the other commands do this first)

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

setup-sweep: $(READY_SWEEP) # Ray, and a driver for PostgreSQL: only what sweeps needs them

$(READY_SWEEP): $(READY)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[$(EXTRAS),sweep,server]'
	@touch $(READY_SWEEP)

new: setup ## begin a project of your own, with this library (DIR=… FROM=…; docs/own_project.md)
	@python -m sparse_sam.new $(if $(FROM),--from "$(FROM)") "$(or $(DIR),$(error name a folder: make new DIR=../my-experiment))"

repro: setup ## run what is not up to date of the experiment, and print the comparison
	@python -m sparse_sam.config
	@began=$$(date +%s); dvc repro && { python -m sparse_sam.tracking.publish || true; } && \
		python -m sparse_sam.evaluation.table && python -m sparse_sam.tracking.trainings --since $$began

status: setup ## what `make repro` would run, and why
	@python -m sparse_sam.config
	@python -m stages.inputs
	@dvc status download train_dense prune finetune_sgd finetune_sam evaluate

gc: setup ## what the store holds that nothing here names (REMOVE=yes removes it; docs/caching.md)
	@python -m sparse_sam.tracking.unused $(if $(filter yes,$(REMOVE)),--remove) $(if $(filter yes,$(SHARED)),--shared)

show: setup ## print the comparison again
	@python -m sparse_sam.evaluation.table

publish: setup ## send to MLflow what it does not have yet (EXPERIMENT=name takes what was refused)
	@python -m sparse_sam.tracking.publish $(if $(EXPERIMENT),--experiment "$(EXPERIMENT)")

export: setup ## write a finetuned network as dense, packed and ONNX files (ARM=… SEED=…; docs/export.md)
	@python -m sparse_sam.tracking.release $(if $(ARM),--arm $(ARM)) $(if $(SEED),--seed $(SEED))

register: setup ## export, and put it into MLflow's model registry; champion if `make check` passes
	@python -m sparse_sam.tracking.release --register $(if $(ARM),--arm $(ARM)) $(if $(SEED),--seed $(SEED)) \
		$(if $(BASE),--base $(BASE))

sweep: setup-sweep ## run what is not done of a sweep (FILE=sweep.yaml ADDRESS=…; docs/sweeps.md)
	@python -m sparse_sam.sweep $(or $(FILE),studies/regimes/lenet-300-100.yaml) $(if $(ADDRESS),--address $(ADDRESS))

test: setup ## run the tests, the pipeline once among them
	@$(PYTEST)

test-slow: setup ## run the pipeline in every way it can be started, cached and shared (about four minutes)
	@$(PYTEST) -m slow

test-faults: setup ## kill, break and flood the pipeline at length (about twenty minutes)
	@OMP_NUM_THREADS=2 python -m pytest -m faults -p no:xdist

test-sweep: setup-sweep ## sweeps on a real Ray cluster, a team's server on PostgreSQL (about five minutes)
	@OMP_NUM_THREADS=1 python -m pytest -m sweep -p no:xdist

check: setup ## compare the metrics with the base branch's, as gate.yaml says (BASE=… for another revision)
	@python -m sparse_sam.evaluation.gate $(if $(BASE),--base $(BASE))

lint: setup ## check style, types, and which room imports which
	@ruff check $(HOUSE)
	@ruff format --check $(HOUSE)
	@mypy
	@lint-imports --no-logo --no-cache

ui: setup ## open MLflow's UI on http://127.0.0.1:5000 (PORT=… for another port)
	@# Not as arguments, which everybody on this machine can list: passwords may be among them.
	@MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" mlflow ui \
		--host 127.0.0.1 --port $(or $(PORT),5000)

server: setup-sweep ## a team's MLflow server: its database in MLFLOW_BACKEND_STORE_URI (docs/sweeps.md)
	@MLFLOW_ARTIFACTS_DESTINATION="$${MLFLOW_ARTIFACTS_DESTINATION:-mlartifacts}" python -m mlflow server \
		--host $(or $(HOST),127.0.0.1) --port $(or $(PORT),5000)

figures: setup ## bring the README's table and picture up to date with the results
	@python docs/make_figures.py

bench: setup ## measure what everything costs here, into docs/ and benchmarks/results/ (an hour)
	@mkdir -p benchmarks/results
	@python benchmarks/sam_step.py --docs docs/sam.md --json benchmarks/results/sam_step.json
	@python benchmarks/data_path.py --keep --docs
	@python benchmarks/epoch.py --keep --docs
	@python benchmarks/step.py --compile --keep --docs
	@python benchmarks/scale.py --keep --docs
	@python benchmarks/memory.py --keep --docs
	@python benchmarks/pipeline.py --keep --docs
	@python benchmarks/pipeline.py --seeds 5 --rounds 3 --keep --docs
	@python benchmarks/summary.py
	@python benchmarks/compare.py || true

bench-compare: setup ## show what became slower since the last commit that was measured here
	@python benchmarks/compare.py

bench-inference: setup ## measure sizes and speed of what is exported, and put the tables into docs/export.md
	@python benchmarks/inference.py --docs docs/export.md --json benchmarks/results/inference.json

bench-sweep: setup-sweep ## measure the sweeps' engine, and simulate it on a cluster, into docs/sweeps.md
	@python benchmarks/sweep.py --keep --docs

study-notebook: setup ## reproduce a published notebook's faults (studies/notebook; half an hour)
	@dvc repro studies/notebook/dvc.yaml

study-lenet: setup ## error of the LeNets against compression, beside published tables (studies/lenet; hours)
	@dvc repro studies/lenet/dvc.yaml

study-regimes: setup-sweep ## where SAM pays, over sparsity and dense training (studies/regimes; two hours)
	@dvc repro studies/regimes/dvc.yaml

study-colour: setup ## a residual network on your photographs (FOLDER=… with train/ and test/, PROJECT=…; half an hour)
	@python -m studies.colour.run "$(FOLDER)" "$(PROJECT)"

study-status: setup ## what has changed since the studies' published numbers were computed
	@dvc status studies/notebook/dvc.yaml studies/lenet/dvc.yaml studies/regimes/dvc.yaml

study-recheck: setup ## compute a part of every study with this code, and compare the digits (FOLDER=… of MNIST)
	@python -m studies.recheck $(if $(FOLDER),--folder $(FOLDER))
