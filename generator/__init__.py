"""Autoregressive generation: a GPT that continues the token sequence of a picture, coarse to fine, and may stop after any of them."""
