# Each target works on a fresh machine that has Python 3.10 to 3.13 and nothing else: the
# first one run makes .venv and installs the locked requirements and this package into it.

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	$$name -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$name && break; done)
VENV ?= .venv
LOCK ?= requirements.lock
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --retries 10 --timeout 60

# Stamps are named after the content they stand for: another lock installs again, a fresh
# checkout of the same one does not.
checksum = $(firstword $(shell cat $(1) | cksum))
LOCKED := $(VENV)/.locked-$(call checksum,$(LOCK))
INSTALLED := $(VENV)/.installed-$(call checksum,$(LOCK) setup.py pyproject.toml)
TORCH_INSTALLED := $(VENV)/.torch-$(call checksum,$(LOCK) requirements-torch.lock)
DOCS_INSTALLED := $(VENV)/.docs-$(call checksum,$(LOCK) requirements-docs.txt)

DEMO ?= $(BIN)/python -m flags.study --flagfile=flags/recipes/mnist_5k_trades.flags \
	--methods=hydra,lwm --densities=0.01 --seeds=1 --tflite --out=runs/demo
# Pytest's worker processes (0: none, for one core) and further arguments, such as PYTEST_ARGS="-k masks".
JOBS ?= 2
PYTEST_ARGS ?=
TIME_BUDGET ?=
# Names for `make bench ONLY=bounds,attack_speed`; all of them by default.
ONLY ?=
# `make notebooks NOTEBOOKS=01_first_robust_pruning` makes one of them.
NOTEBOOKS ?=
PYTEST = $(BIN)/python -m pytest --doctest-modules -n $(JOBS) $(PYTEST_ARGS)
# `make lock UPGRADE=--upgrade` moves every pin to the newest version.
UPGRADE ?=
COMPILE = build/lock/bin/uv pip compile --universal --python-version 3.10 --no-annotate \
	--no-emit-index-url --no-emit-find-links --constraint build/lock/constraints.txt --quiet \
	--custom-compile-command

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo lint test test-slow test-torch test-all test-oldest pytest bench docs notebooks \
	format lock lock-oldest clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 13

$(LOCKED):
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
		echo "No Python 3.10 to 3.13 found; install one or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c '$(SUPPORTED)' || { \
		echo "$(VENV) holds a Python outside 3.10 to 3.13; remove it and run make again." >&2; exit 2; }
	$(PIP) install --quiet "$$(grep '^setuptools==' $(LOCK))" "$$(grep '^wheel==' $(LOCK))"
	for try in 1 2 3; do \
		$(PIP) install --quiet --use-pep517 --no-build-isolation -r $(LOCK) && exit 0; \
		echo "Installation attempt $$try did not succeed." >&2; sleep 5; \
	done; exit 1
	rm -f $(VENV)/.locked-*
	touch $@

$(INSTALLED): | $(LOCKED)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/.installed-*
	touch $@

# The plain wheel for Linux brings CUDA; nothing else needs PyTorch.
$(TORCH_INSTALLED): | $(INSTALLED)
	$(PIP) install --quiet --constraint $(LOCK) -r requirements-torch.lock
	rm -f $(VENV)/.torch-*
	touch $@

$(DOCS_INSTALLED): | $(INSTALLED)
	$(PIP) install --quiet --constraint $(LOCK) -r requirements-docs.txt
	rm -f $(VENV)/.docs-*
	touch $@

install: $(INSTALLED)  ## make .venv with the locked requirements and this package

demo: $(INSTALLED)  ## the main job on real digits: train, prune two ways, attack, export
	$(DEMO)

lint: $(INSTALLED)  ## style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint  ## lint, then the quick tests and the docstrings' examples
	$(PYTEST) -m "not slow and not torch" tests hydra_tf

# `make test-slow TIME_BUDGET=600` starts no test that is not expected to end within 600 s. One
# process: the slow tests start processes of their own.
test-slow: $(INSTALLED)  ## the slow tests alone, shortest first
	$(BIN)/python -m pytest $(PYTEST_ARGS) --doctest-modules -m "slow and not torch" \
		$(addprefix --time-budget=,$(TIME_BUDGET)) tests hydra_tf/interop/tfmot

test-torch: $(TORCH_INSTALLED)  ## install PyTorch, then test hydra_tf.interop.torch
	$(PYTEST) -m torch tests/interop/torch hydra_tf/interop/torch

test-all: lint $(TORCH_INSTALLED)  ## all tests: those of `make test`, the slow ones and test-torch
	$(PYTEST) tests hydra_tf

test-oldest:  ## the default tests with the oldest requirements, in .venv-oldest
	$(MAKE) VENV=.venv-oldest LOCK=requirements-oldest.lock pytest

pytest: $(INSTALLED)
	$(PYTEST) -m "not slow and not torch" tests hydra_tf

bench: $(INSTALLED)  ## speed and size, one benchmark after the other; writes BENCHMARKS.md
	$(BIN)/python -m benchmarks $(addprefix --only=,$(ONLY))

docs: $(DOCS_INSTALLED)  ## write the pages of docs/ to build/docs; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# jupytext and nbclient are an extra of setup.py, not part of the lock.
notebooks: $(INSTALLED)  ## run the tutorials as notebooks, in tutorials/notebooks (about half an hour)
	$(PIP) install --quiet --constraint $(LOCK) --no-build-isolation --editable ".[notebooks]"
	$(BIN)/python tutorials/make_notebooks.py $(NOTEBOOKS)

format: $(INSTALLED)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv ignores a requirement's upper limit on Python; backports-strenum 1.3 needs one below 3.11.
build/lock/constraints.txt:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	echo 'backports-strenum<1.3' > $@

lock: build/lock/constraints.txt  ## write requirements.lock and those for PyTorch and the pages
	$(COMPILE) "make lock" $(UPGRADE) --extra test setup.py --output-file requirements.lock
	cat requirements.lock requirements-torch.lock > build/lock/torch.lock
	$(COMPILE) "make lock" $(UPGRADE) --extra test --extra torch setup.py --output-file build/lock/torch.lock
	grep -vE '^(cuda|nvidia|triton)\b' build/lock/torch.lock | grep -vxFf requirements.lock \
		> requirements-torch.lock
	printf '%s\n' latex2mathml mkdocs-material 'mkdocstrings[python]' | $(COMPILE) "make lock" \
		$(UPGRADE) --constraint requirements.lock - --output-file requirements-docs.txt

lock-oldest: build/lock/constraints.txt  ## write requirements-oldest.lock: the oldest versions setup.py allows
	$(COMPILE) "make lock-oldest" $(UPGRADE) --extra test --resolution lowest-direct setup.py \
		--output-file requirements-oldest.lock

clean:  ## remove what tools and builds leave behind (environments and runs/ stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
