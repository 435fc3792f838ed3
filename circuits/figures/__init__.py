"""Figures of circuits in one fixed layout."""
