"""Explanations on the shipped series: planted edits, cost."""
