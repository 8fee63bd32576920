"""Benchmarks: inference engines, tokenizer families, and the generator's cache."""
