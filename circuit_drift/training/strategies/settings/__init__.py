"""What a comparison of strategies consists of: its config, its strategies, its documents."""
