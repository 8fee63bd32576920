"""The microservice: Encode and Decode over gRPC and REST, in front of NVIDIA Triton. No PyTorch here."""

import os

# Must be set before grpc is imported. The only child we start is another program: gRPC's care for forks would just log a warning at it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# The same. gRPC's C core writes plain text to stderr, a line for each failed TLS handshake; our log is JSON. INFO brings them back.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
