"""What a reader of a page chooses for himself: two checkpoints, a level, a size, a head, a fact. No server is asked."""
