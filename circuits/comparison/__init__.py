"""Two graphs compared: which edges changed for real, how alike wiring and strength are, against the noise."""
