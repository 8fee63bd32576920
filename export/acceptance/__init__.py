"""Acceptance test of a GPU host: numerics against the checkpoint, and speed."""
