"""Detectors: from attention rows to scores of heads, one formula a row of the table."""
