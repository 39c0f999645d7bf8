# syntax=docker/dockerfile:1
# One image for every process; the command decides which: `python -m bidder`, `python -m dsp api`, ...
FROM python:3.11-slim AS build
ARG EXTRAS=cpu,api,train
WORKDIR /src
COPY pyproject.toml requirements.lock README.md ./
COPY dsp dsp
COPY models models
COPY bidder bidder
COPY loadtest loadtest
RUN python -m venv /opt/dsp \
    && PIP_CONSTRAINT=requirements.lock /opt/dsp/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM python:3.11-slim
# LightGBM needs the OpenMP runtime.
RUN apt-get update && apt-get install --no-install-recommends --yes libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home dsp
COPY --from=build /opt/dsp /opt/dsp
WORKDIR /app
COPY config config
RUN mkdir -p var && chown dsp var
USER dsp
ENV PATH=/opt/dsp/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8080 8081 8000 9090
VOLUME /app/var
CMD ["python", "-m", "dsp", "--config", "config/dsp.toml", "up"]
