"""Measures that intervene: heads ablated, edges patched, beside the scores that they put to the test."""
