"""From files to a model ready for hooked forward passes, one checkpoint after the other."""
