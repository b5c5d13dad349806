"""Decoder layers of the Llama family in few launches: which are known, and what computes them."""
