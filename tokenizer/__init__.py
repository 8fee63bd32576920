"""Image tokenizers in PyTorch: models, training, evaluation."""
