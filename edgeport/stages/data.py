"""The sample data of a build: opened once, split where needed, and proven not to overlap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport.dataset import (
    Classes,
    Dataset,
    check_overlap,
    choose_classes,
    classes_spoken_of,
    of_classes,
    open_dataset,
)
from edgeport.dataset.synthetic import RandomSource
from edgeport.errors import ConfigError
from edgeport.store import Store, digest, write_atomic

if TYPE_CHECKING:
    from edgeport.graph.network import Network
    from edgeport.plan import Plan
    from edgeport.types import Model

HELD_OUT = 5  # without --evaluate (--tune), every fifth calibration sample is kept for it
RANDOM_SAMPLES = 64  # without data; enough to see a wrong conversion
FEWEST_TO_SPLIT = 10  # calibration samples; of fewer, none is kept for tuning


@dataclass(frozen=True, kw_only=True)
class Data:
    """Samples by use; None where the plan has no such data.

    Attributes:
        notes: what the report has to say of them.
        classes: those of the network that the samples were cut to; None: all.
        is_random: whether nothing is known of real samples: figures on `evaluate` then show errors of conversion only.
    """

    calibrate: Dataset | None
    evaluate: Dataset
    train: Dataset | None
    tune: Dataset | None = None
    notes: tuple[str, ...] = ()
    classes: Classes | None = None
    is_random: bool = False

    @property
    def classes_elsewhere(self) -> int:
        """Classes that labels or names of other samples speak of, where training samples have neither; 0: none."""
        if self.train is None or classes_spoken_of(self.train):
            return 0
        others = (samples for samples in (self.evaluate, self.calibrate, self.tune) if samples is not None)
        return max(classes_spoken_of(samples) for samples in others)

    def check_labels(self, model: Model) -> None:
        """Raise ConfigError unless every label is one of the network's classes, where it gives class scores."""
        if len(model.outputs) == 1 and len(model.outputs[0].shape) == 1:
            for samples in (self.evaluate, self.train):
                if samples is not None and samples.has_labels:
                    samples.check_labels(model.outputs[0].shape[0])

    def digests(self) -> dict[str, dict[str, object]]:
        """Return use -> name, size and digest, for the manifest."""
        used = {"calibrate": self.calibrate, "evaluate": self.evaluate, "train": self.train, "tune": self.tune}
        return {
            use: {"name": data.name, "samples": len(data), "digest": data.digest}
            for use, data in used.items()
            if data is not None
        }


def open_data(plan: Plan, store: Store) -> Data:
    """Open the plan's data.

    Raises:
        ConfigError: something cannot be read, or a sample has two uses of calibration, tuning, training and evaluation.
    """
    given, classes, notes = _opened(plan)
    calibrate, train, evaluate, tune = (given.get(flag) for flag in ("--calibrate", "--train", "--evaluate", "--tune"))
    if evaluate is None:
        if calibrate is None:
            raise ConfigError("no --evaluate DATA")
        calibrate, evaluate = _hold_out(calibrate)
    calibrate = calibrate if plan.precision == "int8" or plan.prunes else None
    for name, other in (("--calibrate", calibrate), ("--train", train)):
        if other is not None:
            _check_alike(name, other, "--evaluate", evaluate)
            _check_disjoint(store, name, other, "--evaluate", evaluate)
    if calibrate is not None and tune is not None:
        _check_alike("--calibrate", calibrate, "--tune", tune)
        _check_disjoint(store, "--calibrate", calibrate, "--tune", tune)
    elif calibrate is not None and len(calibrate) >= FEWEST_TO_SPLIT:
        calibrate, tune = _hold_out(calibrate)
    if tune is not None:
        _check_alike("--tune", tune, "--evaluate", evaluate)
        _check_disjoint(store, "--tune", tune, "--evaluate", evaluate)
    if plan.repair_bias and train is not None and tune is not None:  # on samples it was trained on it would see no bias
        _check_disjoint(store, "--train", train, "--calibrate" if plan.tune is None else "--tune", tune)
    return Data(calibrate=calibrate, evaluate=evaluate, train=train, tune=tune, classes=classes, notes=notes)


def _opened(plan: Plan) -> tuple[dict[str, Dataset], Classes | None, tuple[str, ...]]:
    """Open what the plan uses, cut to the chosen classes; return it by flag, the classes, and notes for the report."""
    uses_tune = plan.repair_bias or plan.prunes or (plan.precision == "int8" and plan.calibrate is not None)
    named = {
        "--calibrate": plan.calibrate,
        "--train": plan.train if plan.trains or plan.prunes else None,
        "--evaluate": plan.evaluate,
        "--tune": plan.tune if uses_tune else None,
    }
    given = {flag: open_dataset(name) for flag, name in named.items() if name is not None}
    if not plan.classes:
        return given, None, ()
    classes = choose_classes(plan.classes, given)
    notes = [
        f"{flag} has no labels: all of its samples are used, whatever class they are of"
        for flag, samples in given.items()
        if not samples.has_labels
    ]
    return {flag: of_classes(samples, classes, flag=flag) for flag, samples in given.items()}, classes, tuple(notes)


class _Place(msgspec.Struct, frozen=True):
    data: str
    is_held_out: bool
    classes: Classes | None = None


def remember_place(plan: Plan, data: Data, store: Store) -> None:
    """Note in the store where the evaluation samples lie: an output folder names no place of this machine."""
    named = str(plan.calibrate if plan.evaluate is None else plan.evaluate)
    path, separator, callable_name = named.rpartition(":") if ".py:" in named else (named, "", "")
    full = str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path
    place = _Place(data=f"{full}{separator}{callable_name}", is_held_out=plan.evaluate is None, classes=data.classes)
    write_atomic(_place_file(store, data.evaluate.digest), msgspec.json.encode(place).decode())


def open_place(store: Store, evaluate_digest: str) -> Dataset | None:
    """Return the evaluation samples of an earlier build on this machine; None where their place is not known.

    Raises:
        ConfigError: they are not there any more, or damaged.
    """
    try:
        place = msgspec.json.decode(_place_file(store, evaluate_digest).read_bytes(), type=_Place)
    except (OSError, msgspec.MsgspecError):
        return None
    samples = open_dataset(place.data)
    if place.classes is not None:
        samples = of_classes(samples, place.classes, flag="--evaluate")
    return _hold_out(samples)[1] if place.is_held_out else samples


def _place_file(store: Store, evaluate_digest: str) -> Path:
    return store.root / "places" / f"{digest(evaluate_digest)}.json"


def random_data(plan: Plan, network: Network) -> Data:
    """Return seeded random samples of the form that the network takes, for a plan without data.

    Raises:
        ConfigError: nothing says what the network takes.
    """
    from edgeport.graph.inputs import InputForm, find_inputs

    given, classes, of_labels = _opened(plan)
    train = given.get("--train")
    if train is None:
        forms, known = find_inputs(network, plan.input)
    else:
        pairs = zip(train.shapes, train.dtypes, strict=True)
        forms, known = tuple(InputForm(shape=shape, dtype=dtype) for shape, dtype in pairs), "as --train has it"
    source = RandomSource(forms, RANDOM_SAMPLES, plan.seed)
    notes = (
        f"no data was given: input {', '.join(map(str, forms))}, {known}",
        f"the files were compared with PyTorch on {RANDOM_SAMPLES} random inputs: that shows errors of conversion, not"
        " accuracy, which NOBODY HAS CHECKED; agreement is shown but not judged; give --evaluate DATA to check it",
    )
    return Data(
        calibrate=None,
        evaluate=Dataset(name="random inputs", source=source),
        train=train,
        tune=given.get("--tune"),
        notes=(*notes, *of_labels),
        classes=classes,
        is_random=True,
    )


def _hold_out(samples: Dataset) -> tuple[Dataset, Dataset]:
    if len(samples) < HELD_OUT:
        raise ConfigError(
            f"'{samples.name}' has {len(samples)} samples; give --evaluate DATA, or {HELD_OUT} or more to split"
        )
    kept = [index for index in range(len(samples)) if index % HELD_OUT != HELD_OUT - 1]
    return samples.subset(kept), samples.subset(slice(HELD_OUT - 1, None, HELD_OUT))


def _check_alike(name: str, first: Dataset, other_name: str, second: Dataset) -> None:
    if (first.shapes, first.dtypes) != (second.shapes, second.dtypes):
        raise ConfigError(
            f"{name} has samples of {_form(first)}, {other_name} of {_form(second)}; one network cannot take both"
        )


def _form(samples: Dataset) -> str:
    inputs = zip(samples.shapes, samples.dtypes, strict=True)
    return " and ".join(f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}" for shape, dtype in inputs)


def _check_disjoint(store: Store, name: str, first: Dataset, other_name: str, second: Dataset) -> None:
    key = digest("disjoint", first.digest, second.digest)
    if store.get(key) is None:
        check_overlap(first, second, names=(name, other_name))
        with store.put(key) as folder:
            (folder / "disjoint").touch()
