"""From a checkpoint to what Triton serves: ONNX graphs, proof that they agree with PyTorch, and the model repository."""
