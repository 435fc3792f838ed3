"""The measures a run takes of each checkpoint."""
