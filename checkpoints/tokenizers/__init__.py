"""What a tokenizer does: what it puts around a text, and what tells it from another one."""
