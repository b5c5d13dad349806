"""Requests in slots: which rows they hold, what they cost, and moving them."""
