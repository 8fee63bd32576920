"""Acceptance test of a GPU host with PyTorch but without Triton and TensorRT, in minutes."""
