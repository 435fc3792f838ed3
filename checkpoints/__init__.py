"""Checkpoint series: found, ordered, checked, loaded."""
