"""What a trained tokenizer is worth: metrics, reports and figures."""
