"""A service started as a user starts it: the load tests start theirs in the same way."""

from loadtest.running import READY, ROOT, Service, eventually, running

__all__ = ["READY", "ROOT", "Service", "eventually", "running"]
