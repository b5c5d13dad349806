"""What is learnt from a model's hidden states, in one pass: steering vectors and probes."""
