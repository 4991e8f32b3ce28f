"""What can go wrong through no fault of edgeport's code, one class and one exit code a cause.

Raised anywhere, caught only in `edgeport.cli`. A message says what happened, the value, and what is allowed or what
to do, in one line: lower case, no full stop.
"""

from __future__ import annotations


class EdgeportError(Exception):
    """Base of every error that a user can cause.

    Attributes:
        exit_code: what the process ends with (DESIGN: 2 usage, 3 package, 4 stage, 5 backend, 6 limit).
    """

    exit_code = 1


class ConfigError(EdgeportError):
    """A flag, a file the user named, a recipe, a target or the data is wrong."""

    exit_code = 2


class MissingPackageError(EdgeportError):
    """An optional package is not installed; the message ends with the command that installs it."""

    exit_code = 3


class StageError(EdgeportError):
    """A stage (trace, prune, distill, calibrate, validate) could not do its work on this model."""

    exit_code = 4


class LoweringError(EdgeportError):
    """A backend cannot express the model; the message names the operator and the layer."""

    exit_code = 5


class LimitError(EdgeportError):
    """Everything was built, but a measured figure exceeds its limit."""

    exit_code = 6


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ` (did you mean WORD?)` for the nearest known word, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
