"""The acceptance of a GPU host that has PyTorch and neither Triton nor TensorRT, in minutes."""
