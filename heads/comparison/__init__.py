"""Two checkpoints' scores compared, prompt by prompt."""
