"""Synthetic worlds and training runs with known answers."""
