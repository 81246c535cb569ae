# Two commands do everything: `make demo` and `make test`.
#   PYTHON=python3.12        another interpreter (3.11 or 3.12)
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu    small CPU wheels of torch instead of CUDA ones
#   DEMO_ARGS="photo.jpg --out DIR"                     options of `worldloom demo`
SHELL := /bin/bash
PYTHON ?= $(shell tools/find_python.sh 3.11 3.12)
TORCH_INDEX ?=
DEMO_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test setup setup-dev core studio matrix ray proto clean lint

demo: $(VENV)/.demo-ready
	$(BIN)/worldloom demo $(DEMO_ARGS)

test: $(VENV)/.dev-ready
	tools/run_tests.sh

setup: $(VENV)/.demo-ready
setup-dev: $(VENV)/.dev-ready

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "worldloom needs Python 3.11 or 3.12; none was found. Install one, or say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: $(BIN)/python pyproject.toml constraints.txt
	@tools/install_torch.sh $(BIN)/python "$(TORCH_INDEX)"
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.demo-ready
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	$(PIP) check
	@touch $@

core: $(VENV)/.dev-ready
	tools/run_tests.sh core

studio: $(VENV)/.dev-ready
	tools/run_tests.sh studio

matrix: $(VENV)/.dev-ready
	tools/run_tests.sh matrix

ray: $(BIN)/python
	PYTHON=$(BIN)/python tools/run_tests.sh ray

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .

# The wire code is made with grpcio-tools 1.62.x, which any later protobuf runtime loads.
proto: .venv-proto/.ready
	.venv-proto/bin/python tools/gen_proto.py

.venv-proto/.ready: $(BIN)/python
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet "grpcio-tools==1.62.3" "setuptools<81"
	@touch $@

clean:
	rm -rf $(VENV) .venv-proto .venv-ui .venv-usd24 .venv-ray .pytest_cache .ruff_cache
