"""`make chaos`: attacks on a real service, each with what must hold while it lasts and after.

A file for each attack, or for a few of a kind. Each yields rows (attack.py): what was measured, against which limit.
"""
