"""Fit: the values of a formula's parameters, found from texts, from preferences, from rewards."""
