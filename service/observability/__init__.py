"""Metrics, traces, logs, and request ids with access log."""
