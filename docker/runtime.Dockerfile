# The device agent with one runtime: what runs where a built file is measured. From the checkout's folder:
#   docker build -f docker/runtime.Dockerfile --build-arg RUNTIME=onnxruntime --build-arg VERSION=1.32.0 -t agent .
# RUNTIME and VERSION: ai-edge-litert 2.3.0 (.tflite), openvino 2026.4.1 (.xml), onnxruntime 1.32.0 (.onnx), or
# tflite-runtime 2.14.0 (.tflite on small boards), which needs an older numpy too: --build-arg NUMPY=1.26.4
FROM python:3.11-slim
ARG RUNTIME=ai-edge-litert
ARG VERSION=2.3.0
ARG NUMPY=2.4.6
ENV PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1
RUN pip install --no-cache-dir "${RUNTIME}==${VERSION}" "numpy==${NUMPY}" \
    && useradd --uid 10001 --no-create-home agent
COPY edgeport/devices/agent.py /opt/edgeport/agent.py
USER 10001
WORKDIR /data
ENTRYPOINT ["python", "/opt/edgeport/agent.py"]
CMD ["--help"]
