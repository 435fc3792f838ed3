"""How often intervals cover, and how often tests are wrong where nothing changed."""
