# One command a job; every command works from a fresh clone and does only what is not done yet.
#
#   PYTHON    the Python (3.11 or newer) that makes the virtual environment
#   VENV      where the virtual environment lives
#   DEVICE    cpu or gpu: the build of torch; gpu where there is an NVIDIA driver. After a change: make clean
#   JOBS      processes that run the tests; the tests of a file stay together
#   PIP_ARGS  given to every pip install
#   DIST      folder that `make wheels` replaces

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= $(if $(wildcard /proc/driver/nvidia/version /usr/lib/wsl/lib/nvidia-smi),gpu,cpu)
PIP_ARGS ?=
DIST ?= dist
JOBS ?= 2

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
DISTRIBUTIONS := . data protos checkpoints runtime/cpu runtime/gpu server client
METADATA := constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
PACKAGES := -e ./data -e ./protos -e ./checkpoints -e ./runtime/cpu -e './server[studio,s3,postgres,otel]' -e './client[onnx,cli,plot,sign]'
SOURCES := metanas data protos meta_checkpoints server client tests examples docker deploy benchmarks studies
# On Linux the default index serves the CUDA build of torch. This one serves the CPU build, of a tenth of the size.
TORCH_CPU := $(if $(filter Linux-cpu,$(shell uname -s)-$(DEVICE)),https://download.pytorch.org/whl/cpu)
# On a GPU: make bench DEVICE=gpu
TOPICS = adapt export query inference together server memory scaling weak_scaling overload $(filter gpu,$(DEVICE))
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
.PHONY: help install demo test check audit docs protos fuzz soak bench wheels release docker clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install: $(INSTALLED_DEV) ## Make .venv with all packages, editable, and everything for development

demo: $(INSTALLED) ## Start a server, adapt to a few handwritten digits, classify new ones, stop
	$(BIN)/python examples/demo.py --out demo-output

test: $(INSTALLED_DEV) ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(INSTALLED_DEV) ## Format, lint, types, import contracts, protos, Dockerfile, shell scripts, vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run
	$(BIN)/python deploy/audit.py

audit: $(INSTALLED_DEV) ## Look for known vulnerabilities of the pinned packages; OSV_URL names another service
	$(BIN)/python deploy/audit.py

docs: $(INSTALLED_DEV) ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

protos: $(INSTALLED_DEV) ## Generate the Python code of the protos again
	$(BIN)/python protos/generate.py

fuzz: $(INSTALLED_DEV) ## Send mutated messages to a server: make fuzz MESSAGES=2000
	METANAS_FUZZ=$(or $(MESSAGES),2000) METANAS_OUT=$(or $(OUT),benchmarks/results/local/fuzz.json) $(BIN)/python -m pytest -s -m slow tests/server/test_fuzz.py

soak: $(INSTALLED_DEV) ## Kill a server's processes under load: make soak SECONDS=60 FRONTS=2 WORKERS=ray
	METANAS_SOAK=$(or $(SECONDS),60) METANAS_SOAK_FRONTS=$(or $(FRONTS),1) METANAS_SOAK_WORKERS=$(WORKERS) METANAS_OUT=$(or $(OUT),benchmarks/results/local/soak-$(or $(FRONTS),1).json) $(BIN)/python -m pytest -s -m slow tests/server/test_soak.py

bench: export LD_PRELOAD ?= $(shell ldconfig -p 2>/dev/null | grep -o 'libtcmalloc_minimal\.so\.4' | head -1)
bench: $(INSTALLED_DEV) ## Print the benchmarks' tables and write their JSON
	@set -e; for topic in $(TOPICS); do echo "== $$topic"; $(BIN)/python -m benchmarks.$$topic $(BENCH_ARGS); done

# The archives get the date of the last commit, or the one in the environment: the same sources give the same bytes.
wheels: export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),1580601600)
wheels: $(BIN)/hatchling ## Build the wheel and the source archive of each distribution into dist/
	rm -f $(DIST)/*.whl $(DIST)/*.tar.gz
	@set -e; for folder in $(DISTRIBUTIONS); do (cd $$folder && $(abspath $(BIN))/hatchling build -d $(abspath $(DIST))); done

release: ## Set the version of all distributions, commit, tag and build them: make release VERSION=0.2.0
	@test -z "$$(git status --porcelain)" || { echo "commit or remove your changes first" >&2; exit 1; }
	$(PYTHON) deploy/release.py "$(VERSION)"
	git commit --quiet --all --message "Release $(VERSION)"
	git tag "v$(VERSION)"
	$(MAKE) wheels

docker: wheels ## Build the server's image (DEVICE=gpu for CUDA, EXTRAS=,ray for Ray)
	docker build --build-arg DEVICE=$(DEVICE) --build-arg EXTRAS=$(EXTRAS) --tag metanas-server:$(DEVICE) .

clean: ## Remove what the commands above have made
	rm -rf $(VENV) $(DIST) demo-output site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(BIN)/hatchling: | $(BIN)/python
	$(PIP_INSTALL) hatchling

# Without dependencies, which come from the default index; torch itself does, too, where this index cannot be reached.
define INSTALL_TORCH
$(if $(TORCH_CPU),$(PIP_INSTALL) --retries 1 --no-deps --index-url $(TORCH_CPU) torch || echo "$(TORCH_CPU) has not served torch; the default index will")
endef

$(INSTALLED): $(METADATA) | $(BIN)/python
	$(INSTALL_TORCH)
	$(PIP_INSTALL) -e '.[train,watch]' $(PACKAGES)
	@touch $@

$(INSTALLED_DEV): $(METADATA) | $(BIN)/python
	$(INSTALL_TORCH)
	$(PIP_INSTALL) -e '.[train,watch,ray,dev]' $(PACKAGES)
	@touch $(INSTALLED) $@
