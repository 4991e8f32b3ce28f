# An image in which `edgeport` runs, with all three runtimes. From the checkout's folder:
#   docker build -f docker/build.Dockerfile -t edgeport .
#   docker run --rm --network none -v "$PWD:/data" --user "$(id -u):$(id -g)" edgeport build --target arm64
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY targets targets
COPY calibration calibration
COPY edgeport edgeport
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    HOME=/opt/edgeport
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(ls /wheels/edgeport-*.whl)[all]" \
    && useradd --uid 10001 --no-create-home --home-dir /opt/edgeport edgeport \
    # any user of `docker run --user` may keep its store there
    && install --directory --owner=10001 --mode=1777 /opt/edgeport \
    && install --directory --owner=10001 /data
USER 10001
WORKDIR /data
ENTRYPOINT ["edgeport"]
CMD ["--help"]
