"""Shared parts of the load tests: start a service, read process statistics, make test images."""
