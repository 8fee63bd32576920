# The images of docker-compose.yml that are ours: `gateway` serves, `export` writes graphs, `loadtest` and `acceptance` ask. TensorRT and
# Triton are NVIDIA's image.
FROM python:3.11.14-slim-bookworm AS python
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY client client

# No PyTorch and no engine: pictures, gRPC and REST.
FROM python AS gateway
# pyproject.toml pins everything.
# hadolint ignore=DL3013
RUN pip install '.[gateway]'
COPY pictures pictures
COPY service service
USER 10001:10001
ENV CHANNELTOK_HOST=0.0.0.0
EXPOSE 8080 50051
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]

# What it runs is mounted: the files that `make loadtest` runs.
FROM python AS loadtest
# pyproject.toml pins everything.
# hadolint ignore=DL3013
RUN pip install '.[loadtest]'
COPY docs/images/*.jpg docs/images/
USER 10001:10001
EXPOSE 8089
# The web UI; --headless has none.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/', timeout=2)"]
ENTRYPOINT ["python", "-m", "locust", "-f", "loadtest/locustfile.py,loadtest/shapes", "--class-picker", "--stop-timeout", "30"]

# Runs once, and on the CPU: the graphs are the same wherever they are written.
FROM python AS export
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# pyproject.toml pins everything.
# hadolint ignore=DL3013
RUN pip install --index-url "$TORCH_INDEX" torch==2.13.0 && pip install '.[export]'
COPY pictures pictures
COPY tokenizer tokenizer
COPY generator generator
COPY export export
COPY docs/images/*.jpg photos/
# Volumes are born with the owner of the folder they cover: Triton's image runs as 1000 and has neither folder.
RUN install -d -o 1000 -g 1000 /graphs /plans
USER 1000:1000
ENTRYPOINT ["python", "-m", "export", "engines", "--data", "photos", "--repository", "/graphs/models"]

# Every other engine that runs the graphs on a GPU. ONNX Runtime with CUDA takes the place of the one without; torch.compile needs a compiler.
FROM python AS acceptance
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# pyproject.toml pins everything.
# hadolint ignore=DL3013
RUN pip install '.[export]' && pip uninstall --yes onnxruntime && pip install '.[acceptance]'
COPY pictures pictures
COPY tokenizer tokenizer
COPY generator generator
COPY export export
ENV TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton
USER 1000:1000
ENTRYPOINT ["python", "-m", "export.gpu_acceptance"]
