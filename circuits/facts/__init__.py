"""Facts as clean/corrupt pairs, the tasks of the literature, and the metric that is attributed."""
