# A server of packed models: the runtime without PyTorch, as a user without rights.
#
#   docker build -t bhvit .
#   docker run --rm -p 8000:8000 -v "$PWD/models:/models:ro" bhvit

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.* make=4.3-* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# Without the training kernels, which are of no use without PyTorch.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    --config-settings=cmake.define.BHVIT_TRAINING=OFF

FROM python:3.12-slim-bookworm
# hadolint ignore=DL3013 # the versions are those that pyproject.toml allows
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    wheel="$(ls /wheels/bhvit-*.whl)" \
    && python -m pip install --no-cache-dir --no-compile "bhvit[serve] @ file://${wheel}" \
    && python -m pip uninstall --yes pip \
    && rm -rf /usr/local/lib/python3.12/ensurepip \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin bhvit \
    && install -d -o root -g root -m 0755 /models \
    && cp /usr/local/lib/python3.12/site-packages/bhvit/bundled/cifar10.bhv /models/cifar10.bhv
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["bhvit", "serve"]
CMD ["/models", "--host", "0.0.0.0", "--port", "8000"]
