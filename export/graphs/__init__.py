"""Checkpoints to ONNX graphs, their precisions and their parity with PyTorch."""
