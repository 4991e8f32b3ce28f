"""A choice of the network's classes, and data sets cut to it: other samples dropped, labels renumbered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeport.dataset.batch import Batch
from edgeport.dataset.decode import Preprocess
from edgeport.dataset.view import Dataset
from edgeport.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Some of the network's classes; the first one named becomes class 0, and so on.

    Attributes:
        kept: their indices in the network, two or more, none twice.
        all_names: what the data call all of the network's classes; empty: they do not say.
        highest_label: the highest label of any sample, before the cut; -1: there are no labels.
    """

    kept: tuple[int, ...]
    all_names: tuple[str, ...] = ()
    highest_label: int = -1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the kept classes; empty where the data have none."""
        return tuple(self.all_names[index] for index in self.kept) if self.all_names else ()

    def check_count(self, classes: int) -> None:
        """Raise ConfigError unless the choice and the data fit a network of so many classes."""
        highest = max(self.kept)
        if highest >= classes:
            raise ConfigError(f"--classes {highest}: the network has {classes} classes (0..{classes - 1})")
        if self.all_names and len(self.all_names) != classes:
            raise ConfigError(
                f"--classes: the data name {len(self.all_names)} classes, the network has {classes}; name all of them"
                " in a recipe's classes"
            )
        if self.highest_label >= classes:
            raise ConfigError(
                f"--classes: a sample has label {self.highest_label}, the network has {classes} classes"
                f" (0..{classes - 1})"
            )


def choose_classes(words: Sequence[str], data: Mapping[str, Dataset]) -> Classes:
    """Return the classes that the words name: class names of the data, or else indices (`2` may be a name too).

    Args:
        words: two or more.
        data: what the user calls a data set (`--train`) -> the data set, whole.

    Raises:
        ConfigError: an unknown name, a class named twice, or data sets that disagree on names.
    """
    names = max((samples.classes for samples in data.values()), key=len, default=())
    named = next((flag for flag, samples in data.items() if samples.classes == names), "")
    for flag, samples in data.items():
        strangers = [name for name in samples.classes if name not in names]
        if strangers or (len(samples.classes) == len(names) and samples.classes != names):
            what = f"has '{strangers[0]}', which {named} has not" if strangers else f"are not in the order of {named}"
            raise ConfigError(f"--classes: the class names of {flag} {what}; give both the same names in recipes")
    kept = [_index(word, names) for word in words]
    for index in kept:
        if kept.count(index) > 1:
            raise ConfigError(f"--classes: class {index} is named twice")
    labels = [found for samples in data.values() if (found := samples.labels()) is not None and len(found)]
    return Classes(
        kept=tuple(kept),
        all_names=names,
        highest_label=max((int(found.max()) for found in labels), default=-1),
    )


def _index(word: str, names: tuple[str, ...]) -> int:
    if word in names:
        return names.index(word)
    if not (word.isascii() and word.isdecimal()):
        known = f"; known: {', '.join(names)}{did_you_mean(word, list(names))}" if names else ", and the data name none"
        raise ConfigError(f"--classes: no class '{word}'{known}")
    if names and int(word) >= len(names):
        raise ConfigError(f"--classes {word}: the data name {len(names)} classes (0..{len(names) - 1})")
    return int(word)


def of_classes(samples: Dataset, classes: Classes, *, flag: str) -> Dataset:
    """Return the samples of the chosen classes, with labels 0, 1, ...; without labels all of them.

    A data set that names its classes is cut by name, so one that has a few of the network's classes only may number
    them as it likes; any other by index.

    Raises:
        ConfigError: no sample is of these classes, or a label is negative.
    """
    labels = samples.labels()
    if labels is None:
        return Dataset(name=samples.name, source=_Cut(samples, None, classes))
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        raise ConfigError(f"{flag}: {samples.where(first)} has label {int(labels[first])}; labels count from 0")
    own = samples.classes or classes.all_names
    wanted = [own.index(name) if name in own else -1 for name in classes.names] if own else classes.kept
    table = np.full(max(0, *wanted) + 1, -1)
    for new, label in enumerate(wanted):
        if label >= 0:
            table[label] = new
    places = np.flatnonzero(_renumbered(labels, table) >= 0)
    if not len(places):
        what = ", ".join(classes.names or map(str, classes.kept))
        raise ConfigError(f"{flag}: no sample of '{samples.name}' is of the classes {what}")
    return Dataset(name=samples.name, source=_Cut(samples.subset(places.tolist()), table, classes))


def classes_spoken_of(samples: Dataset) -> int:
    """Return how many classes there are by a data set's class names, or else by its highest label; 0: neither."""
    labels = samples.labels()
    if samples.classes or labels is None or not len(labels):
        return len(samples.classes)
    return int(labels.max()) + 1


def _renumbered(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the new labels, -1 for other classes; `table`: new label of each old one, as far as there are any."""
    inside = (labels >= 0) & (labels < len(table))
    return np.where(inside, table[np.where(inside, labels, 0)], -1)


class _Cut:
    """A view of another data set, as a source with labels and class names of its own."""

    def __init__(self, samples: Dataset, table: np.ndarray | None, classes: Classes) -> None:
        """Take all of `samples`; `table`: as in `_renumbered`, or None without labels."""
        self.classes = classes.names
        self._samples, self._table, self._kept = samples, table, classes.kept

    @property
    def preprocess(self) -> Preprocess | None:
        """How pictures become inputs."""
        return self._samples.preprocess

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._samples)

    def labels(self) -> np.ndarray | None:
        """Return (n,) int64, or None."""
        labels = self._samples.labels()
        return None if labels is None or self._table is None else _renumbered(labels, self._table)

    def digest(self) -> str:
        """Return a hash of the samples and of the choice, hex."""
        whole = hashlib.sha256(bytes.fromhex(self._samples.digest) + repr((self._kept, self.classes)).encode())
        whole.update(b"" if self._table is None else self._table.astype("<i8").tobytes())
        return whole.hexdigest()

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return shapes and dtypes."""
        del index
        return self._samples.shapes, self._samples.dtypes

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield these samples with their new labels.

        Raises:
            ConfigError: a callable gives another sample in the place of one that was chosen.
        """
        order = indices.tolist()
        found = self._samples.batches(size, order=order) if is_shuffled else self._samples.subset(order).batches(size)
        for batch in found:
            yield replace(batch, labels=self._renumber(batch.labels))

    def _renumber(self, labels: np.ndarray | None) -> np.ndarray | None:
        if labels is None or self._table is None:
            return None
        new = _renumbered(labels, self._table)
        if (new < 0).any():
            raise ConfigError(
                f"'{self._samples.name}' yields its samples in another order than in its first pass; --classes needs"
                " the same order in every pass"
            )
        return new

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return the samples' hashes."""
        return self._samples.subset(indices.tolist()).sample_digests()

    def where(self, index: int) -> str:
        """Return what the data set calls the sample."""
        return self._samples.where(index)
