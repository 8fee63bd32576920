"""A generator for tests: the real Triton, real streams and real cancellation; only the network is replaced."""
