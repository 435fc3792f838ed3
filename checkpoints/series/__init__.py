"""The training run: a series of checkpoints, their names and order, from a folder, a manifest or the hub."""
