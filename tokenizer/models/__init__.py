"""The three tokenizers and the layers they are built from."""
