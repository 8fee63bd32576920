"""Against the real thing: the service as a process, its real tritonserver, real gRPC and HTTP clients."""
