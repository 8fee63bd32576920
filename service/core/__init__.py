"""Encode, Decode and Generate for both protocols: admission, registry, call records."""
