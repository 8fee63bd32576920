"""A generator for tests: real Triton, streams and cancellation, without a neural network."""
