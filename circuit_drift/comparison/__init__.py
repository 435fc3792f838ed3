"""Two measured checkpoints compared: behaviour, heads, circuit, and what one's circuit does in the other."""
