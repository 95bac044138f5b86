# The production image: CSM-1B on one NVIDIA GPU. Weights come from the Hub into a volume.
#   docker build -t csm-trio .
#   docker run --gpus all -p 8080:8080 -e HF_TOKEN=... -v csm-models:/models csm-trio
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 csm \
    && mkdir /models && chown csm /models

WORKDIR /opt/csm-trio
COPY pyproject.toml README.md LICENSE voices.json ./
COPY src ./src
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir ".[otel]"

USER csm
# Where the Hub library and Triton (which compiles with gcc) keep what must outlive a container.
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/models/huggingface \
    TRITON_CACHE_DIR=/models/triton \
    PYTHONUNBUFFERED=1
VOLUME /models
EXPOSE 8080
# A model loads in minutes on its first start, while it is being downloaded.
HEALTHCHECK --interval=15s --timeout=6s --start-period=600s --retries=3 \
    CMD curl --fail --silent --insecure http${CSM_TLS_CERT:+s}://127.0.0.1:${CSM_PORT:-8080}/healthz || exit 1
ENTRYPOINT ["csm-trio"]
CMD ["serve", "--model-id", "sesame/csm-1b"]
