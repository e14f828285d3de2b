# One command a job; every command works from a fresh clone and does only what is not done yet.
#
#   PYTHON    the Python (3.11 or newer) that makes the virtual environment
#   VENV      where the virtual environment lives
#   DEVICE    cpu or gpu: which of onnxruntime and onnxruntime-gpu is installed (they exclude each other)
#   JOBS      processes that run the tests; the tests of a file stay together
#   PIP_ARGS  given to every pip install. On Linux the default package index serves the CUDA build of
#             torch (several GB); for the CPU build say
#             make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
PIP_ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
METADATA := constraints.txt pyproject.toml data/pyproject.toml protos/pyproject.toml server/pyproject.toml client/pyproject.toml
PACKAGES := -e ./data -e ./protos -e './server[$(DEVICE)]' -e './client[onnx,cli,plot]'
SOURCES := metanas data protos server client tests examples docker benchmarks studies
# On a GPU: make bench DEVICE=gpu
TOPICS = adapt export query together server memory scaling weak_scaling $(filter gpu,$(DEVICE))
INSTALLED := $(VENV)/.installed-$(DEVICE)
INSTALLED_DEV := $(VENV)/.installed-dev-$(DEVICE)

# Threads of torch that wait for one another should sleep: by spinning they take the cores from whatever
# else runs, and where all cores are busy an adaptation takes ten times as long.
export OMP_WAIT_POLICY ?= PASSIVE
# Large activations go back to the system as soon as they are free, in huge pages; or with tcmalloc, where it is
# installed, they are kept for the next ones (see DESIGN.md, Speed). The server looks for it itself.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304
# ONNX Runtime 1.31 and later reports its use to its makers unless this is set before it is imported.
export ORT_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs protos bench docker clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install: $(INSTALLED_DEV) ## Make .venv with the five packages, editable, and everything for development

demo: $(INSTALLED) ## Start a server, adapt to a few handwritten digits, classify new ones, stop
	$(BIN)/python examples/demo.py --out demo-output

test: $(INSTALLED_DEV) ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: $(INSTALLED_DEV) ## Format, lint, types, import contracts, protos, Dockerfile, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run

docs: $(INSTALLED_DEV) ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

protos: $(INSTALLED_DEV) ## Generate the Python code of the protos again
	$(BIN)/python protos/generate.py

bench: export LD_PRELOAD ?= $(shell ldconfig -p 2>/dev/null | grep -o 'libtcmalloc_minimal\.so\.4' | head -1)
bench: $(INSTALLED_DEV) ## Print the benchmarks' tables and write their JSON
	@set -e; for topic in $(TOPICS); do echo "== $$topic"; $(BIN)/python -m benchmarks.$$topic $(BENCH_ARGS); done

docker: ## Build the server's image (DEVICE=gpu for the one with CUDA)
	docker build --build-arg DEVICE=$(DEVICE) --tag metanas-server:$(DEVICE) .

clean: ## Remove what the commands above have made
	rm -rf $(VENV) demo-output site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(METADATA) | $(BIN)/python
	$(PIP_INSTALL) -e '.[$(DEVICE),train,watch]' $(PACKAGES)
	@touch $@

$(INSTALLED_DEV): $(METADATA) | $(BIN)/python
	$(PIP_INSTALL) -e '.[$(DEVICE),train,watch,ray,dev]' $(PACKAGES)
	@touch $(INSTALLED) $@
