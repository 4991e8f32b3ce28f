"""Where an artifact runs, and the single-file agent that runs it there."""

from __future__ import annotations

from pathlib import Path


def agent_file() -> Path:
    """Return the agent's own file: it is copied to devices as it is."""
    return Path(__file__).resolve().parent / "agent.py"
