"""Use with other libraries: timm, transformers, ONNX and Ray."""
