"""The embedded default: a small network for handwritten digits, with its weights, data and training script."""
