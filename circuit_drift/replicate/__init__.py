"""The claims of two papers, each put to a run of one's own."""
