"""The graph of an architecture, scores on its edges and nodes, circuits chosen from them, and their exports."""
