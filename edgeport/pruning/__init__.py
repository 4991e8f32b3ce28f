"""Structured filter pruning: which channels belong together, which matter least, and how to cut them."""
