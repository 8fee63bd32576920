"""Metrics, traces, logs and the context of a request."""
