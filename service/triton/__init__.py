"""Client of Triton: batching, streaming and the health of its models."""
