"""Load on a running service: locust users and an open loop at a fixed rate."""
