"""The null model: what a run's measures find in an untrained twin of its model."""
