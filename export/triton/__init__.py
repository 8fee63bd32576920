"""ONNX graphs to a Triton model repository."""
