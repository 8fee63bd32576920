"""Benchmark commands: each measures a running service and writes a JSON report to build/."""
