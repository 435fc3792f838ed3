"""Figures and tables of the built-in measures over a run."""
