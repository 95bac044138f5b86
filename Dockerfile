# csm-trio on a CPU or on one NVIDIA GPU: docs/deployment.md.
#   docker build --tag csm-trio .                                      embedded voice on a CPU
#   docker build --tag csm-trio:cuda --build-arg VARIANT=cuda .        CSM-1B on a GPU, CUDA 13
ARG VARIANT=cpu
# The release job adds the digest.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# torch's wheels on PyPI bring CUDA's libraries, on x86-64 and aarch64. PyTorch's index is asked beside
# PyPI, not in its place: it may lack the pinned releases of the packages that torch needs.
# pip prefers the wheel with a local version: 2.13.0+cpu to 2.13.0.
FROM ${PYTHON_IMAGE} AS index-cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM ${PYTHON_IMAGE} AS index-cuda

# In the order of change: torch, what csm-trio needs, csm-trio.
FROM index-${VARIANT} AS venv
ARG VARIANT
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY deploy/constraints.txt ./
RUN pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt torch \
    && test "$(/opt/venv/bin/python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')" = "$VARIANT"
COPY pyproject.toml ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["otel"], sep="\n")' \
        > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && pip --python /opt/venv/bin/python check

FROM ${PYTHON_IMAGE} AS runtime-cpu

FROM ${PYTHON_IMAGE} AS runtime-cuda
# Triton compiles the launchers of its kernels with gcc where the server starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CSM_DEVICE=cuda \
    CSM_MODEL_ID=sesame/csm-1b

FROM runtime-${VARIANT}
LABEL org.opencontainers.image.title="csm-trio" \
      org.opencontainers.image.description="Self-hosted streaming text-to-speech behind ElevenLabs' protocol" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 csm \
    && useradd --uid 10001 --gid 10001 --create-home csm \
    && mkdir /models /data \
    && chown csm:csm /models /data
COPY --from=venv /opt/venv /opt/venv
WORKDIR /opt/csm-trio
COPY LICENSE voices.json deploy/healthcheck.py ./
# What outlives a container lies in /models: weights and compiled kernels.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models/huggingface \
    TRITON_CACHE_DIR=/models/triton \
    CUDA_CACHE_PATH=/models/cuda
VOLUME /models
EXPOSE 8080
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
# The port opens when the engine is warm: on the first start after the download.
HEALTHCHECK --interval=15s --timeout=6s --start-period=1200s --retries=3 \
    CMD ["python", "healthcheck.py"]
ENTRYPOINT ["csm-trio"]
CMD ["serve"]
