# The server as an image.
#
#   docker build -t metanas-server .                                  CPU
#   docker build -t metanas-server:gpu --build-arg DEVICE=gpu .       CUDA; run with --gpus all -e METANAS_DEVICES=cuda
#
# The CUDA libraries come with the wheels of torch, so both are built on the same small base.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# cpu or gpu: which torch, and which of onnxruntime and onnxruntime-gpu (they exclude each other)
ARG DEVICE=cpu
# where the CPU build of torch is; the default index has the CUDA build
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/metanas
ENV PATH="/opt/metanas/bin:${PATH}"

# torch alone first: it is nearly all of the image, and its layer outlives changes of our code
COPY constraints.txt ./
RUN if [ "${DEVICE}" = cpu ]; then export PIP_EXTRA_INDEX_URL="${TORCH_CPU_INDEX}"; fi \
    && pip install -c constraints.txt torch

COPY LICENSE README.md CHANGELOG.md pyproject.toml ./
COPY metanas ./metanas
COPY data ./data
COPY protos ./protos
COPY server ./server
RUN pip install -c constraints.txt ".[${DEVICE}]" ./data ./protos "./server[${DEVICE}]"


FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="MetaNAS Server" \
      org.opencontainers.image.licenses="Apache-2.0"
# the allocator of the workers: it keeps large activations for the next ones (see DESIGN.md, Speed);
# of whatever version the base image's distribution has
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-create-home metanas \
    && install --directory --owner metanas --group metanas /data
COPY --from=build /opt/metanas /opt/metanas
COPY docker/healthcheck.py /opt/healthcheck.py
COPY meta_checkpoints /checkpoints
ENV PATH="/opt/metanas/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    METANAS_CHECKPOINTS=/checkpoints \
    METANAS_DATA=/data \
    METANAS_LISTEN=0.0.0.0:50051
USER 10001:10001
VOLUME /data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["metanas-server"]
