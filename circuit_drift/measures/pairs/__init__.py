"""What the built-in measures say of two checkpoints."""
