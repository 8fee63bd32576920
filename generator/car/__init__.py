"""CAR (arXiv 2605.26089): a language model that foretells the next channel of an image. Its tokens are a CVQ tokenizer's codewords."""
