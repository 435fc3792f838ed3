"""Figures of head scores."""
