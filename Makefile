# `make build` builds the dataset, `make test` runs the tests; both set up .venv first. `make help` lists all commands.
# Settings: PROFILE (configs/*.yaml), OVERRIDES (JSON, e.g. '{"select.target": 50}'), PORT (of the Prefect UI),
# PYTEST (arguments of pytest), PYTHON (3.11 or 3.12); for annotate and reannotate FILE, OUT, COLUMNS ("text=question
# answer=Short Answer"), TIER, LICENCE, ANSWERS (auto or verbatim); for evaluate MODEL, BENCHMARKS and PROTOCOLS (names with commas);
# for compare A and B; for plan EXPERIMENT (names with commas, or an edition: paper, pocket); for experiment NAME, ONLY (labels of
# rows with semicolons), SEEDS, MAX_HOURS, RESULTS (a folder); for release WHAT (dataset or model), VERSION, REPO, UPLOAD=1, PUBLIC=1,
# SOURCE, PREVIOUS, DATASETS, EVALUATIONS, ROLL_BACK_TO, SECRET_BLOCK.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= pocket
OVERRIDES ?=
PORT ?=
PYTEST ?=
# Programs read these from the environment, as they were written: neither make nor a shell expands them ($5 in a file's name).
AS_WRITTEN := PROFILE OVERRIDES PORT EXPERIMENT FILE OUT COLUMNS TIER LICENCE ANSWERS MODEL BENCHMARKS PROTOCOLS A B NAME ONLY \
  SEEDS MAX_HOURS RESULTS WHAT VERSION REPO UPLOAD PUBLIC SOURCE PREVIOUS DATASETS EVALUATIONS ROLL_BACK_TO SECRET_BLOCK
$(foreach name,$(AS_WRITTEN),$(eval override $(name) := $$(value $(name))))
export $(AS_WRITTEN)

BIN := .venv/bin
READY := .venv/.ready
# The large packages that a build imports are compiled at once, on all cores; Python compiles other modules on demand and keeps
# them. To compile every module would make setting up half as long again.
COMPILED := beartype deepspeed networkx numpy pandas prefect ray scipy sqlalchemy sympy torch transformers vllm
NOT_COMPILED := /(tests?|testing|models)/|/ray/(data|llm|rllib|serve|train|tune)/
unexport PYTHONDONTWRITEBYTECODE
DEVICE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
SHELL := /bin/bash
# uv does not read PIP_FIND_LINKS. Without a folder of wheels, a CPU machine installs torch from PyTorch's CPU index.
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
else ifeq ($(DEVICE),cpu)
TORCH := --torch-backend=cpu
endif

.PHONY: help build plan distill validate evaluate compare experiment annotate reannotate release test test-all hostile ui shell pictures report lint audit format clean pocket env
.DEFAULT_GOAL := help

help:  ## list all commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: env  ## build a dataset and a report (deployment sure-math/build)
	@exec $(BIN)/python scripts/build.py build

plan: env  ## estimate requests, tokens and disk of a build, or the cost of experiments: make plan EXPERIMENT=paper/uopd-main
	@exec $(BIN)/python scripts/build.py plan

distill: env  ## train a student on the profile's newest dataset (deployment sure-math-distill/uopd)
	@exec $(BIN)/python scripts/build.py distill

validate: env  ## compare the dataset's entropies with the known truth (deployment sure-math-validate/truth)
	@exec $(BIN)/python scripts/build.py validate

evaluate: env  ## evaluate a model: make evaluate MODEL=pocket/student BENCHMARKS=pocket PROTOCOLS=avg16
	@exec $(BIN)/python scripts/evaluate.py evaluate

compare: env  ## compare two evaluated models: make compare A=output/evaluations/one B=output/evaluations/two
	@exec $(BIN)/python scripts/evaluate.py compare

experiment: env  ## measure what an experiment lacks: make experiment NAME=pocket/learning SEEDS=0,1 MAX_HOURS=2
	@exec $(BIN)/python scripts/experiment.py

annotate: env  ## annotate your own problems: make annotate FILE=problems.jsonl OUT=output/mine
	@exec $(BIN)/python scripts/annotate.py own

reannotate: env  ## annotate the stale rows of the profile's dataset again
	@exec $(BIN)/python scripts/annotate.py stale

release: env  ## check the dataset and write its release folder; UPLOAD=1 REPO=owner/name sends it to the Hugging Face hub
	@exec $(BIN)/python scripts/release.py

test: env  ## run the tests that every commit needs
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long and not hostile" $(PYTEST)

test-all: env  ## run all tests, also those marked long
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not hostile" $(PYTEST)

hostile: env  ## run the tests with hostile input at full length, with a table of what held (up to 30 minutes)
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/hostile $(PYTEST)

ui: env  ## keep the Prefect UI up until Ctrl-C, with a worker for the runs that are started there
	@exec $(BIN)/python scripts/build.py ui

shell: env  ## open a shell in which `prefect` reaches the project's Prefect server
	@exec $(BIN)/python scripts/build.py shell

pictures: env  ## take the screenshots in docs/ of the last build again, with headless Chromium
	@exec $(BIN)/python scripts/pictures.py

report: env  ## show the paths of the last dataset and report, and three example rows
	@exec $(BIN)/python scripts/build.py report

lint: env  ## run ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

audit: env  ## list the installed packages whose version constraints.txt does not pin
	@exec $(BIN)/python scripts/audit.py

format: env  ## fix and format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

pocket: env  ## train and measure the pocket models again (hours on two cores)
	@$(BIN)/python -m pocket.train all
	@$(BIN)/python -m pocket.measure

clean:  ## delete output/ and Prefect's database; .venv and the models stay
	rm -rf output .prefect .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

env: $(READY)  ## set up .venv

$(READY): pyproject.toml constraints.txt overrides.txt
	@echo "sure-math: setting up .venv for $(DEVICE) (about 1 GB to download on a CPU machine the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "sure-math: $(PYTHON) is not Python 3.11 or 3.12: give one, e.g. make env PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@echo "sure-math: installing packages"
	@$(BIN)/uv pip install --python $(BIN)/python --quiet $(TORCH) \
	  -c constraints.txt --override overrides.txt -e '.[$(DEVICE),dev]'
	-@$(BIN)/python -W ignore -m compileall -q -j 0 -x '$(NOT_COMPILED)' \
	  $(COMPILED:%=.venv/lib/python3*/site-packages/%)
	@touch $@
	@echo "sure-math: .venv is ready"
