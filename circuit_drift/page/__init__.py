"""How results look on a page: sections, the page itself, the look of figures, the axis over checkpoints."""
