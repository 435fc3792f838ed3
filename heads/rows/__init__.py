"""Chosen attention rows at the price of a fused forward pass."""
