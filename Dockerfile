# syntax=docker/dockerfile:1
# The CUDA libraries that torch needs come with its wheels; the base image adds the runtime that
# NVIDIA's container toolkit looks for. Ubuntu 24.04 brings Python 3.12.
# `make pin-image` asks the registry for this tag's digest and writes it behind the tag: name@sha256:…
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS build
# Ubuntu keeps no older versions that could be pinned
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/overtone
ENV PATH=/opt/overtone/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
# `--build-arg LOCK=image-cluster.lock` for Ray Serve: docs/cluster.md
ARG LOCK=image.lock
WORKDIR /src
# torch and the rest first: this layer stays as it is while only the code changes
COPY deploy/*.lock ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r "${LOCK}"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY app app
COPY training training
RUN pip install --no-cache-dir --no-deps --force-reinstall .

FROM ${CUDA_IMAGE}
# gcc and the Python headers: Triton builds a launcher for each kernel at run time; KubeRay's probes call wget
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-dev gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && (userdel --remove ubuntu 2>/dev/null || true) \
    && useradd --create-home --uid 1000 overtone \
    && install -d -o overtone -g overtone /srv/overtone /home/overtone/.cache /home/overtone/.cache/huggingface \
        /srv/overtone/adapters /srv/overtone/jobs
COPY --from=build /opt/overtone /opt/overtone
COPY deploy/*.py /opt/overtone/ray/deploy/
COPY --chown=overtone:overtone adapters /srv/overtone/adapters
ENV PATH=/opt/overtone/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/opt/overtone/ray \
    HF_HOME=/home/overtone/.cache/huggingface \
    OVERTONE_ADAPTERS=/srv/overtone/adapters \
    OVERTONE_JOBS=/srv/overtone/jobs \
    OVERTONE_REQUIRE_KEYS=true
# overtone, by its number, so that an orchestrator can see that it is not root
USER 1000
WORKDIR /srv/overtone
# model files fetched from the Hub, compiled kernels; adapters; training jobs
VOLUME ["/home/overtone/.cache", "/srv/overtone/adapters", "/srv/overtone/jobs"]
EXPOSE 8000
# /ready answers 503 while the model loads: a first start may also have to download it
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["overtone"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
