"""Retrieval heads: probes, scores, comparisons."""
