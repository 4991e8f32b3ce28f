"""edgeport: one command from a PyTorch network to validated files for phones, boards and PCs."""

from __future__ import annotations

__version__ = "0.1.0"
