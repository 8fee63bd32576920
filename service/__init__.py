"""The service: encode, decode and generate over gRPC and REST, in front of Triton. No PyTorch."""

import os

# Both must be set before grpc is imported. We fork only to run other programs: gRPC's fork support
# would just log a warning each time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# gRPC's C core writes a line of plain text to stderr for each failed TLS handshake; our log is
# JSON. Set GRPC_VERBOSITY=INFO to see them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
