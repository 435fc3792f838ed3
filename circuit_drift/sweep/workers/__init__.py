"""One worker of a sweep: its tasks, the models it draws, its progress."""
