"""The traced float network: trace helpers, canonical form, fast execution, ONNX export."""
