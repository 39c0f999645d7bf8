# syntax=docker/dockerfile:1
# One image for every process; the command decides which: `python -m bidder`, `python -m dsp api`, `python -m models nightly`.
# Targets: `cpu` (the last, so the default) and `gpu`, whose bidder predicts on an NVIDIA GPU; it brings CUDA and cuDNN itself.

FROM python:3.13-slim-bookworm AS build
# Besides one of `cpu` and `gpu`. A nightly that trains the network needs `deep` too, some gigabytes.
ARG EXTRAS=api,production,train,trace
WORKDIR /src
ENV PIP_CACHE_DIR=/var/cache/pip PIP_CONSTRAINT=/src/requirements.lock PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml requirements.lock README.md ./
COPY dsp dsp
COPY models models
COPY bidder bidder
COPY loadtest loadtest
RUN python -m venv /opt/dsp

FROM build AS build-cpu
RUN --mount=type=cache,target=/var/cache/pip /opt/dsp/bin/pip install ".[cpu,${EXTRAS}]"

FROM build AS build-gpu
RUN --mount=type=cache,target=/var/cache/pip /opt/dsp/bin/pip install ".[gpu,${EXTRAS}]"

FROM python:3.13-slim-bookworm AS runtime
# LightGBM needs the OpenMP runtime, and every container an init: see ENTRYPOINT. Debian keeps one version of a package, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home dsp \
    && install --directory --owner=dsp --group=dsp \
        /var/lib/dsp /var/lib/dsp/models /var/lib/dsp/training
WORKDIR /app
COPY config config
# The root file system may be read-only: what is written goes to /var/lib/dsp, and scratch to /tmp.
ENV PATH=/opt/dsp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    DSP_CONFIG=/app/config/dsp.toml \
    DSP_PLATFORM_DATA_DIR=/var/lib/dsp \
    DSP_PLATFORM_EXCHANGES_DIR=/app/config/exchanges \
    DSP_BIDDER_HOST=0.0.0.0 \
    DSP_BIDDER_ADMIN_HOST=0.0.0.0 \
    DSP_API_HOST=0.0.0.0 \
    DSP_WORKERS_METRICS_HOST=0.0.0.0 \
    DSP_WORKERS_METRICS_PORT_BASE=9100 \
    HEALTH_URL=http://127.0.0.1:9090/healthz
USER 10001:10001
# Bids, notices, the API, the bidder's admin port, and a metrics port for each worker.
EXPOSE 8080 8081 8000 9090 9100-9105
VOLUME /var/lib/dsp
# A bidder's by default, which `up` runs too; other processes set HEALTH_URL.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=2)"]
STOPSIGNAL SIGTERM
# The kernel keeps from process 1 every signal that it has not asked for yet. A process that is stopped while it starts
# would never hear of it, come up, and be killed with what it had taken on.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "dsp", "up"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/dsp /opt/dsp
# What the NVIDIA container toolkit is to bring in: the driver's part of CUDA.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=build-cpu /opt/dsp /opt/dsp
