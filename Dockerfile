# The server in a container, for a GPU or for CPUs: see docs/deployment.md.
#
#   docker build -t inference-server .
#   docker build -t inference-server:cpu --build-arg TORCH_INDEX=ADDRESS .
#   docker build -t inference-server:cluster --build-arg EXTRAS="tracing cluster" .
#
# The first has torch with CUDA, which computes on CPUs as well but is several GB larger than need
# be there. ADDRESS is the index of wheels for CPUs alone, which pytorch.org shows under "Get
# started" for Linux, Pip and CPU. The third has Ray as well: see docs/cluster.md.

FROM debian:bookworm-slim AS build
ARG TORCH_INDEX=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gcc g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/inference-server
ENV PATH=/opt/inference-server/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    SAM2_BUILD_CUDA=0
WORKDIR /src
# Some of the dependencies are source distributions, which are built with what is pinned here.
COPY requirements/serve.txt requirements/tracing.txt requirements/cluster.txt requirements/
RUN pip install -c requirements/serve.txt setuptools wheel
RUN pip install -c requirements/serve.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        torch torchvision
ARG EXTRAS="tracing"
RUN pip install --no-build-isolation $(printf -- "-r requirements/%s.txt " serve $EXTRAS)
COPY LICENSE README.md pyproject.toml ./
COPY schemas schemas
COPY inference_server inference_server
RUN pip install --no-build-isolation --no-deps .

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent inference \
    && install -d -m 0700 -o inference /data /weights
COPY --from=build /opt/inference-server /opt/inference-server
# Weights from the Hugging Face Hub are kept in /weights; those that are gated need HF_TOKEN.
ENV PATH=/opt/inference-server/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/weights/huggingface \
    INFERENCE_HOST=0.0.0.0 \
    INFERENCE_DATA_DIR=/data
WORKDIR /data
VOLUME ["/data", "/weights"]
USER inference
EXPOSE 9001
# Loading large weights for the first time takes minutes, and counts as no failure until then.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ.get('INFERENCE_PORT', '9001') + '/readyz', timeout=4)"]
ENTRYPOINT ["inference-server"]
CMD ["serve"]
