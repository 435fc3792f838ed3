"""One epoch of training: batches, losses, what is trained, and the optimizer's steps."""
