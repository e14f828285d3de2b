# The server and the client as an image, made of the wheels that `make wheels` builds.
#
#   make docker                 CPU
#   make docker DEVICE=gpu      CUDA; run with --gpus all -e METANAS_DEVICES=cuda
#
# The CUDA libraries come with the wheels of torch, so both are built on the same small base. For builds that are
# repeatable, name the base by its digest: --build-arg BASE=python@sha256:...

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# cpu or gpu: the build of torch
ARG DEVICE=cpu
# more extras of metanas-server, each behind a comma: ,ray
ARG EXTRAS=
# the index with the CPU build of torch; the default index has the CUDA build
ARG TORCH_CPU=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/metanas
ENV PATH="/opt/metanas/bin:${PATH}"

# torch alone first: it is nearly all of the image, and its layer outlives changes of our code
COPY constraints.txt ./
RUN if [ "${DEVICE}" = cpu ]; then pip install -c constraints.txt --no-deps --index-url "${TORCH_CPU}" torch; fi \
    && pip install -c constraints.txt torch

# our packages from the wheels alone, of the versions that lie there; then all that they need
COPY dist/*.whl ./dist/
# hadolint ignore=DL3013
RUN pip install --no-index --no-deps --find-links dist \
        metanas metanas-data metanas-protos metanas-checkpoints metanas-onnxruntime metanas-server metanas-client \
    && pip install -c constraints.txt "metanas-server[postgres,s3${EXTRAS}]" "metanas-client[onnx,cli]" \
    && pip check


FROM ${BASE}
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
ENV PATH="/opt/metanas/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    METANAS_DATA=/data \
    METANAS_LISTEN=0.0.0.0:50051
# nothing but /data and /tmp is written: run it with --read-only --tmpfs /tmp
USER 10001:10001
VOLUME /data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["metanas-server"]
