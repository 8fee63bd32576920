"""CAR (arXiv 2605.26089): a language model that predicts a CVQ tokenizer's codewords from text."""
