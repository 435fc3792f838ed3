"""What a model is asked: needles, the haystacks that hide them, and probes generated from a seed."""
