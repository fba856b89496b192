"""GPT-2 alone: network, checkpoint, tokenizer, decoding. Needs torch and knows nothing of the rest of the package."""
