"""What a run and a pair remember: data only, below everything that measures, compares or shows them."""
