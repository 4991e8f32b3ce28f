"""One runtime a file: lower to its format, load it, read its costs."""
