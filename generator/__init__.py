"""Autoregressive image generation: a GPT and CAR predict image tokens, coarse to fine."""
