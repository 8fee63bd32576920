"""Engines and families side by side."""
