"""What every result shares: folders on disk, strict JSON, the look of figures."""
