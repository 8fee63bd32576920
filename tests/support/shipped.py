"""Fingerprints of the shipped weights."""

DEMO = "7965d790d1c6cd79"
CVQ = "12f84d9d9ffcf533"
GENERATOR = "e8de83e2fd4101d9"
FLEXTOK = "84f079081b1e8353"
