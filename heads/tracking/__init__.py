"""Heads and needle readouts over training: onset, saturation, correlation with other scores."""
