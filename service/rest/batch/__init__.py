"""Batches over REST: many images, or many token sequences, in one call."""
