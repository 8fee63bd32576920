"""Chaos tests of a real service: attacks, each with limits that must hold during and after it.

One module per attack or group of attacks; each yields rows (attack.py) of a measured figure and its
limit.
"""
