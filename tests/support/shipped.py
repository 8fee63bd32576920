"""Fingerprints of the shipped weights."""

DEMO = "7965d790d1c6cd79"
CVQ = "12f84d9d9ffcf533"
GENERATOR = "aded1db2f09115b8"
FLEXTOK = "84f079081b1e8353"
