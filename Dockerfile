# Our images of docker-compose.yml. `cpu` serves without a GPU. With one, `export` writes the graphs
# and `gateway` serves beside NVIDIA's Triton. `loadtest` and `acceptance` measure.
FROM python:3.11.14-slim-bookworm AS python
# HOME: the users below have no home, and the root file system is read-only.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
# Every stage installs dependencies before it copies code, so that a changed line does not install
# them again. pyproject.toml pins them.
COPY pyproject.toml deploy/requirements.py ./

# A wheel of the client alone: the images have the other packages as folders.
FROM python AS client
COPY README.md LICENSE ./
COPY deploy/wheel.py deploy/wheel.py
COPY client client
RUN pip wheel --no-deps --wheel-dir /wheels .

# Base of both serving images. No PyTorch.
FROM python AS service
RUN python requirements.py gateway > gateway.txt && pip install -r gateway.txt
ENV CHANNELTOK_HOST=0.0.0.0
EXPOSE 8080 50051
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s \
    CMD ["python", "-m", "service.health_check"]
ENTRYPOINT ["python", "-m", "service"]

# The service without an engine: image decoding, gRPC and REST, in front of a separate Triton.
FROM service AS gateway
COPY --from=client /wheels /wheels
RUN pip install --no-deps /wheels/*
COPY imaging imaging
COPY service service
USER 10001:10001

# The service with an embedded Triton on the CPU, and the demo tokenizer.
FROM service AS cpu
RUN python requirements.py cpu > cpu.txt && pip install -r cpu.txt
COPY --from=client /wheels /wheels
RUN pip install --no-deps /wheels/*
COPY imaging imaging
COPY export/triton/python_backend.py export/triton/
COPY service service
COPY model_repository model_repository
USER 10001:10001

FROM python AS loadtest
RUN python requirements.py loadtest > loadtest.txt && pip install -r loadtest.txt
COPY --from=client /wheels /wheels
RUN pip install --no-deps /wheels/*
COPY docs/images/*.jpg docs/images/
COPY loadtest loadtest
USER 10001:10001
ENV LOCUST_LOCUSTFILE=loadtest/load/locustfile.py
EXPOSE 8089
# Asks the web UI, which --headless does not have.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", \
         "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/', timeout=2)"]
ENTRYPOINT ["python", "-m", "locust", "--stop-timeout", "30"]

# Runs once, on the CPU: the graphs do not depend on where they are written.
FROM python AS export
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python requirements.py export > export.txt \
    && pip install --index-url "$TORCH_INDEX" "$(grep ^torch== export.txt)" \
    && pip install -r export.txt
COPY imaging imaging
COPY tokenizer tokenizer
COPY generator generator
COPY export export
COPY docs/images/*.jpg photos/
# A new volume has the owner of the folder that it covers: Triton's image runs as 1000 and has
# neither folder.
RUN install -d -o 1000 -g 1000 /graphs /plans
USER 1000:1000
ENTRYPOINT ["python", "-m", "export", "gpu", "--data", "photos", "--repository", "/graphs/models"]

# All other engines that run the graphs on a GPU. ONNX Runtime with CUDA replaces the one without;
# torch.compile needs a compiler.
FROM python AS acceptance
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python requirements.py export > export.txt \
    && python requirements.py acceptance > acceptance.txt \
    && pip install -r export.txt && pip uninstall --yes onnxruntime && pip install -r acceptance.txt
COPY imaging imaging
COPY tokenizer tokenizer
COPY generator generator
COPY export export
ENV TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton
USER 1000:1000
ENTRYPOINT ["python", "-m", "export.acceptance"]
