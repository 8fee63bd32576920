"""Client of Triton: connection, batching, streaming and the health of its models."""
