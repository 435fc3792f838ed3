"""From a model and facts to scores of edges, nodes, positions and parts of MLPs."""
