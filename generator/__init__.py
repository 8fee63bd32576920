"""Autoregressive generation: a GPT that continues the token sequence of an image, coarse to fine, and may stop after any of them."""
