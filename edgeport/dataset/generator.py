"""Samples from the user's own code: a callable in a Python file that yields `(inputs, labels)` batches."""

from __future__ import annotations

import hashlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.dataset.batch import (
    Batch,
    checked_classes,
    checked_dtype,
    checked_finite,
    checked_labels,
    join,
    rebatch,
)
from edgeport.dataset.decode import Preprocess
from edgeport.dataset.sources import row_digests
from edgeport.errors import ConfigError, EdgeportError, did_you_mean

SHUFFLE_BYTES = 2 * 2**30
_END = object()


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """What the first pass found."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    labels: np.ndarray | None
    sample_digests: tuple[bytes, ...]


class CallableSource:
    """What `file.py:name` yields; it is called again for every pass.

    The first pass counts and hashes the samples. Later passes in order must repeat it exactly, since results of
    different passes are compared sample by sample; passes with an order of their own (training) may augment.
    """

    preprocess: Preprocess | None = None

    def __init__(self, path: Path, name: str, *, classes: tuple[str, ...]) -> None:
        """Run the file and find the callable.

        Raises:
            ConfigError: no such file or name, or the file raises.
        """
        self.classes = classes
        self._path, self._what = path, f"{path.name}:{name}"
        module = _run_file(path, self._what)
        found = vars(module).get(name)
        if found is None:
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ConfigError(f"'{path}' has no '{name}'; callables: {', '.join(known)}{did_you_mean(name, known)}")
        if not callable(found):
            raise ConfigError(f"{self._what} is a {type(found).__name__}, needs a callable without arguments")
        self._function: Callable[[], Any] = found
        self._found: _Summary | None = None

    def __len__(self) -> int:
        """Return how many samples a pass yields; runs a first pass."""
        return len(self._summary().sample_digests)

    def labels(self) -> np.ndarray | None:
        """Return (n,) int64 of the first pass, or None."""
        return self._summary().labels

    def digest(self) -> str:
        """Return a hash of the samples, labels and class names, hex."""
        summary = self._summary()
        whole = hashlib.sha256(b"".join(summary.sample_digests) + repr(self.classes).encode())
        whole.update(b"" if summary.labels is None else summary.labels.tobytes())
        return whole.hexdigest()

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return shapes and dtypes."""
        del index
        return self._summary().shapes, self._summary().dtypes

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return the rows' hashes in the first pass."""
        digests = self._summary().sample_digests
        return tuple(digests[index] for index in indices.tolist())

    def where(self, index: int) -> str:
        """Return the callable's name and the sample's number."""
        return f"sample {index} of {self._what}"

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield these samples from a new pass. Streams when `indices` ascend; else holds the chosen samples.

        Raises:
            ConfigError: the pass differs from the first one, or an order of too many bytes is asked for.
        """
        if (np.diff(indices) >= 0).all():
            yield from rebatch(self._chosen(indices, is_shuffled=is_shuffled), size)
            return
        summary = self._summary()
        wanted, positions = np.unique(indices, return_inverse=True)
        row_bytes = sum(
            int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            for shape, dtype in zip(summary.shapes, summary.dtypes, strict=True)
        )
        if row_bytes * len(wanted) > SHUFFLE_BYTES:
            raise ConfigError(
                f"{self._what} yields {row_bytes * len(wanted) / 2**30:.1f} GB, too much to shuffle in memory"
                f" ({SHUFFLE_BYTES / 2**30:.0f} GB); save it as an .npz"
            )
        held = join(list(self._chosen(wanted, is_shuffled=is_shuffled)))
        for start in range(0, len(indices), size):
            yield held.take(positions[start : start + size])

    def _chosen(self, indices: np.ndarray, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield the samples of ascending `indices` from a new pass, in pieces of any length."""
        summary = self._summary()
        base = done = 0
        for piece in self._pass():
            stop = int(np.searchsorted(indices, base + len(piece)))
            if stop > done:
                chosen = piece.take(indices[done:stop] - base)  # a copy: the callable may reuse its arrays
                if not is_shuffled:
                    self._check_repeats(chosen, indices[done:stop], summary)
                yield chosen
            base, done = base + len(piece), stop
            if base > len(self) or (done == len(indices) and done < len(self)):
                break
        if done < len(indices) or base > len(self):
            found = f"more than {len(self)}" if base > len(self) else str(base)
            raise ConfigError(
                f"{self._what} yielded {len(self)} samples in the first pass and {found} in another;"
                " every pass needs the same samples"
            )

    def _check_repeats(self, chosen: Batch, indices: np.ndarray, summary: _Summary) -> None:
        for row, (digest, index) in enumerate(zip(row_digests(chosen.inputs), indices.tolist(), strict=True)):
            is_same_label = (
                summary.labels is None or chosen.labels is None or summary.labels[index] == chosen.labels[row]
            )
            if digest != summary.sample_digests[index] or not is_same_label:
                raise ConfigError(
                    f"{self._what} yields another sample {index} than in its first pass;"
                    " do not shuffle or augment here, or fix the seed"
                )

    def _summary(self) -> _Summary:
        """Run the first pass, once."""
        if self._found is not None:
            return self._found
        digests: list[bytes] = []
        labels: list[np.ndarray] = []
        first: Batch | None = None
        for piece in self._pass():
            first = piece if first is None else first
            digests += row_digests(piece.inputs)
            if piece.labels is not None:
                labels.append(piece.labels)
        if first is None or not digests:
            raise ConfigError(f"{self._what} yields no samples")
        found = _Summary(
            shapes=tuple(array.shape[1:] for array in first.inputs),
            dtypes=tuple(array.dtype.name for array in first.inputs),
            labels=np.concatenate(labels) if labels else None,
            sample_digests=tuple(digests),
        )
        checked_classes(found.labels, self.classes, self._what)
        self._found = found
        return found

    def _pass(self) -> Iterator[Batch]:
        """Call the callable and yield its batches, checked."""
        with _users_code(self._path, self._what):
            result = self._function()
            iterator = iter(result) if hasattr(result, "__iter__") else None
        if iterator is None:
            raise ConfigError(f"{self._what} returns a {type(result).__name__}, needs (inputs, labels) batches")
        first: Batch | None = None
        number = base = 0
        while True:
            with _users_code(self._path, self._what):
                item = next(iterator, _END)
            if item is _END:
                return
            piece = _batch(item, f"{self._what}: batch {number}", base)
            first = piece if first is None else first
            _check_alike(piece, first, f"{self._what}: batch {number}")
            yield piece
            number, base = number + 1, base + len(piece)


def _batch(item: object, what: str, base: int) -> Batch:
    """Return what the callable yielded as arrays; `base` is the number of its first sample."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        length = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise ConfigError(f"{what} is a {type(item).__name__}{length}, needs (inputs, labels); labels may be None")
    given = item[0] if isinstance(item[0], tuple | list) else (item[0],)
    inputs = tuple(_array(value, f"{what}, input {number}") for number, value in enumerate(given))
    if not inputs or any(array.ndim == 0 for array in inputs) or len({len(array) for array in inputs}) != 1:
        shapes = [array.shape for array in inputs]
        raise ConfigError(f"{what} has inputs of shapes {shapes}, needs (n, ...) with one n")
    for number, array in enumerate(inputs):
        checked_dtype(array.dtype, f"{what}, input {number}")
        checked_finite(array, f"{what}, input {number}", base + np.arange(len(array)))
    labels = None
    if item[1] is not None:
        values = np.asarray(item[1]) if isinstance(item[1], tuple | list) else _array(item[1], f"{what}, labels")
        labels = checked_labels(values, len(inputs[0]), f"{what}: labels")
    return Batch(inputs=inputs, labels=labels)


def _array(value: Any, what: str) -> np.ndarray:  # Any: numpy or torch, told apart without importing torch
    if isinstance(value, np.ndarray):
        return np.asarray(value, value.dtype.newbyteorder("="))
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        try:
            return np.asarray(value.detach().cpu().numpy())
        except (TypeError, RuntimeError) as error:  # numpy has no bfloat16, no sparse and no meta tensors
            text = " ".join(str(error).split())
            raise ConfigError(f"{what} is {value.dtype}, needs a dense float32 tensor ({text})") from error
    raise ConfigError(f"{what} is a {type(value).__name__}, needs a numpy array or a torch tensor")


def _check_alike(piece: Batch, first: Batch, what: str) -> None:
    specs = [[(array.shape[1:], array.dtype.name) for array in batch.inputs] for batch in (piece, first)]
    if specs[0] != specs[1]:
        raise ConfigError(f"{what} has samples of {specs[0]}, batch 0 of {specs[1]}; every batch needs the same")
    if (piece.labels is None) != (first.labels is None):
        raise ConfigError(f"{what} and batch 0: one has labels, the other has none")


def _run_file(path: Path, what: str) -> types.ModuleType:
    """Run a Python file as a module of its own, leaving no bytecode beside it."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    full = str(path.resolve())
    module = types.ModuleType(f"edgeport_data_{hashlib.sha256(full.encode()).hexdigest()[:16]}")
    module.__file__ = full
    sys.modules[module.__name__] = module  # dataclasses and pickling workers look a class's module up
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))  # last: its neighbours can be imported and shadow nothing
    with _users_code(path, what):
        exec(compile(source, full, "exec", dont_inherit=True), vars(module))
    return module


@contextmanager
def _users_code(path: Path, what: str) -> Iterator[None]:
    """Run code that is not ours: what it prints goes to stderr, what it raises becomes one line."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except EdgeportError:
        raise
    except (Exception, SystemExit) as error:
        full = str(path.resolve())
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full]
        if isinstance(error, SyntaxError) and error.filename == full:
            lines.append(error.lineno)
        at = f" at line {lines[-1]}" if lines else ""
        text = " ".join(str(error).split())
        raise ConfigError(f"{what} raised {type(error).__name__}{at}{': ' if text else ''}{text}") from error
