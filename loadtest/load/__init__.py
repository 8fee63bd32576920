"""Load generators: locust users, and an open loop at a constant rate."""
