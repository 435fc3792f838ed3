"""Are the heads causal? Interventions inside the attention call, and controls that match."""
