"""Activation statistics and the integer ranges made from them."""
