"""The service: encode, decode and generate over gRPC and REST, in front of Triton. No PyTorch."""

import os

# Both must be set before grpc is imported. We fork only to run other programs: gRPC's fork support
# would just log a warning each time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# gRPC's C core writes a line of plain text to stderr for each failed TLS handshake; our log is
# JSON. Set GRPC_VERBOSITY=INFO to see them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Sockets are polled by the thread that hands events over to our event loop, not by two more: a call
# takes a tenth less of a core (docs/decisions/0069-less-per-call.md).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
