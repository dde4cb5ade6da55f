# A server of packed models: the runtime without PyTorch, shell or package manager, as a user without rights.
#
#   docker build -t bhvit .
#   docker run --rm -p 8000:8000 -v "$PWD/models:/models:ro" bhvit

# Debian 12 and Python 3.11, as the image that runs it.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.* make=4.3-* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# Without the training kernels, which are of no use without PyTorch, and without the tests of NumPy.
# hadolint ignore=DL3013 # the versions are those that pyproject.toml allows
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    --config-settings=cmake.define.BHVIT_TRAINING=OFF \
    && wheel="$(ls /wheels/bhvit-*.whl)" \
    && python -m pip install --no-cache-dir --no-compile --target /bhvit "bhvit[serve] @ file://${wheel}" \
    && find /bhvit -type d -name tests -prune -exec rm -r {} + \
    && install -D -m 0644 /bhvit/bhvit/bundled/cifar10.bhv /models/cifar10.bhv

FROM gcr.io/distroless/python3-debian12:nonroot
COPY --from=build /bhvit /bhvit
COPY --from=build /models /models
ENV PYTHONPATH=/bhvit PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/bin/python3.11", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["/usr/bin/python3.11", "-m", "bhvit", "serve"]
CMD ["/models", "--host", "0.0.0.0", "--port", "8000"]
