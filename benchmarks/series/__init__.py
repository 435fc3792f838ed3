"""What many checkpoints cost: memory, time and pages of long series, synthesised without a model."""
