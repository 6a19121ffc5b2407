# Two images from one file:
#
#   docker build -t tandem-gateway .                    the gateway, with the embedded pair inside
#   docker build -t tandem-vllm --target vllm .         vLLM with Tandem's gate in it
#
# docs/deploy.md says how to run them. Base images are named by exact versions; their digests differ
# by registry mirror and are yours to add: --build-arg PYTHON=3.13.9-slim-bookworm@sha256:...

ARG PYTHON=3.13.9-slim-bookworm
# The vLLM that the gate is tested with; docs/gate.md has the range that it is written for.
ARG VLLM=v0.32.0

# ---------------------------------------------------------------- what is built, and left behind
FROM python:${PYTHON} AS build

WORKDIR /src
RUN python -m venv /opt/tandem
# The lock changes seldom, the code often: so the lock's layer stays in the cache.
COPY requirements/otel.txt requirements/otel.txt
RUN /opt/tandem/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes -r requirements/otel.txt
COPY pyproject.toml README.md ./
COPY app app
COPY router router
COPY policies policies
COPY deploy deploy
RUN /opt/tandem/bin/python -m pip wheel --no-cache-dir --disable-pip-version-check --no-index \
        --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/tandem/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-index \
        --no-deps /wheels/*.whl
# What only builds and installs has no place in what runs. The models get a path without a version.
RUN /opt/tandem/bin/python -m pip uninstall --yes hatchling pathspec pluggy trove-classifiers pip \
    && ln -s "$(echo /opt/tandem/lib/python3.*/site-packages/deploy/pair/models)" /opt/tandem/models

# ---------------------------------------------------------------- vLLM, with the gate loaded
FROM vllm/vllm-openai:${VLLM} AS vllm

COPY --from=build /wheels /wheels
# vLLM finds the gate by its entry points; the image must not be built without them.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && python3 -c "from importlib.metadata import entry_points as found; \
[found(group=group)['tandem-gate'].load() \
for group in ('vllm.logits_processors', 'vllm.general_plugins')]"
ENV VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
ENTRYPOINT ["vllm", "serve"]

# ---------------------------------------------------------------- the gateway
FROM python:${PYTHON} AS gateway

LABEL org.opencontainers.image.title="Tandem" \
      org.opencontainers.image.description="An OpenAI-compatible gateway in which a small and a large model write one answer"

# The one place that is written to: what keys spent, corpora, logs. Everything else may be read-only.
RUN groupadd --gid 65532 tandem \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /var/lib/tandem \
        --shell /usr/sbin/nologin tandem \
    && install -d -m 0750 -o 65532 -g 65532 /var/lib/tandem
COPY --from=build /opt/tandem /opt/tandem

ENV PATH=/opt/tandem/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/tandem
VOLUME /var/lib/tandem
USER 65532:65532
# 8000 for clients, 8001 for operators: the latter only with a token (docs/deploy.md).
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["tandem"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
