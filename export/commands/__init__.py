"""The commands of `python -m export`, a module each, and what they share."""
