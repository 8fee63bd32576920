"""System tests: the real service process, its tritonserver, real gRPC and HTTP clients."""
