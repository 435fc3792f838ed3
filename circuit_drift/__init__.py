"""Retrieval heads and knowledge circuits over training checkpoints."""
