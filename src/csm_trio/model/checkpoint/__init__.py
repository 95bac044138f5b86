"""Find a checkpoint and read its config, tokenizer and tensors."""
