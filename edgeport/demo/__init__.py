"""The embedded default: a small network for handwritten digits, with weights and data."""
