# Container image of the server, for a GPU or for CPUs; see docs/run-with-docker.md.
#
#   docker build -t inference-server .
#   docker build -t inference-server:cpu --build-arg TORCH_INDEX=ADDRESS .
#   docker build -t inference-server:cluster --build-arg EXTRAS="tracing cluster" .
#
# The first contains torch with CUDA, which also runs on CPUs but is several GB larger. ADDRESS is
# the index of CPU-only wheels that pytorch.org shows under "Get started" for Linux, Pip and CPU. The
# third also contains Ray, for docs/cluster.md. `make test-image` builds and runs the first.

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
# Some dependencies are source distributions; the pinned setuptools and wheel build them.
COPY requirements/serve.txt requirements/tracing.txt requirements/cluster.txt requirements/
RUN pip install -c requirements/serve.txt setuptools wheel
# The index of CPU-only wheels lacks some pinned versions of torch's dependencies. pip prefers its
# torch, such as 2.12.1+cpu, to the same version without a suffix.
RUN pip install -c requirements/serve.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        torch torchvision
ARG EXTRAS="tracing"
RUN pip install --no-build-isolation $(printf -- "-r requirements/%s.txt " serve $EXTRAS)
COPY LICENSE README.md pyproject.toml ./
COPY schemas schemas
COPY inference_server inference_server
RUN pip install --no-build-isolation --no-deps .
# 1.1 GB that serving never loads: the compiler of torch.compile, headers, static libraries, and
# libraries of CUDA that torch does not link.
RUN pip uninstall --yes triton \
    && cd /opt/inference-server/lib/python3*/site-packages \
    && rm -rf torch/include torch/bin/ptxas torch/bin/protoc* nvidia/*/include \
        nvidia/*/lib/libnvrtc.alt.so* nvidia/*/lib/libcusolverMg.so* nvidia/*/lib/*.bc \
    && find . -name '*.a' -delete

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent inference \
    && install -d -m 0700 -o inference /data /weights
COPY --from=build /opt/inference-server /opt/inference-server
# /weights keeps downloads from the Hugging Face Hub; gated weights need HF_TOKEN at run time.
ENV PATH=/opt/inference-server/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/weights/huggingface \
    INFERENCE_HOST=0.0.0.0 \
    INFERENCE_DATA_DIR=/data
WORKDIR /data
VOLUME ["/data", "/weights"]
# By number, so that Kubernetes sees that it is not root.
USER 10001
EXPOSE 9001
# The first download of large weights takes minutes; failures during start-period do not count.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ.get('INFERENCE_PORT', '9001') + '/readyz', timeout=4)"]
ENTRYPOINT ["inference-server"]
CMD ["serve"]
