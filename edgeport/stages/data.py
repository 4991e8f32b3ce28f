"""The sample data of a build: opened once, split where needed, and proven not to overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeport.dataset import Dataset, check_overlap, open_dataset
from edgeport.errors import ConfigError
from edgeport.store import Store, digest

if TYPE_CHECKING:
    from edgeport.plan import Plan

HELD_OUT = 5  # without --evaluate, every fifth calibration sample is kept for evaluation


@dataclass(frozen=True, kw_only=True)
class Data:
    """Samples by use; None where the plan has no such data."""

    calibrate: Dataset | None
    evaluate: Dataset
    train: Dataset | None

    def digests(self) -> dict[str, dict[str, object]]:
        """Return use -> name, size and digest, for the manifest."""
        used = {"calibrate": self.calibrate, "evaluate": self.evaluate, "train": self.train}
        return {
            use: {"name": data.name, "samples": len(data), "digest": data.digest}
            for use, data in used.items()
            if data is not None
        }


def open_data(plan: Plan, store: Store) -> Data:
    """Open the plan's data.

    Raises:
        ConfigError: something cannot be read, or evaluation samples are also used for calibration or training.
    """
    calibrate = open_dataset(plan.calibrate) if plan.calibrate is not None else None
    train = open_dataset(plan.train) if plan.distill and plan.train is not None else None
    if plan.evaluate is not None:
        evaluate = open_dataset(plan.evaluate)
    elif calibrate is None:
        raise ConfigError("no --evaluate DATA")
    else:
        calibrate, evaluate = _hold_out(calibrate)
    data = Data(calibrate=calibrate if plan.precision == "int8" else None, evaluate=evaluate, train=train)
    for name, other in (("--calibrate", data.calibrate), ("--train", data.train)):
        if other is not None:
            _check_alike(name, other, evaluate)
            _check_disjoint(store, name, other, evaluate)
    return data


def _hold_out(samples: Dataset) -> tuple[Dataset, Dataset]:
    if len(samples) < HELD_OUT:
        raise ConfigError(
            f"'{samples.name}' has {len(samples)} samples; give --evaluate DATA, or {HELD_OUT} or more to split"
        )
    kept = [index for index in range(len(samples)) if index % HELD_OUT != HELD_OUT - 1]
    return samples.subset(kept), samples.subset(slice(HELD_OUT - 1, None, HELD_OUT))


def _check_alike(name: str, other: Dataset, evaluate: Dataset) -> None:
    if (other.shapes, other.dtypes) != (evaluate.shapes, evaluate.dtypes):
        raise ConfigError(
            f"{name} has samples of {_form(other)}, the evaluation of {_form(evaluate)}; one network cannot take both"
        )


def _form(samples: Dataset) -> str:
    inputs = zip(samples.shapes, samples.dtypes, strict=True)
    return " and ".join(f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}" for shape, dtype in inputs)


def _check_disjoint(store: Store, name: str, other: Dataset, evaluate: Dataset) -> None:
    key = digest("disjoint", other.digest, evaluate.digest)
    if store.get(key) is None:
        check_overlap(other, evaluate, names=(name, "--evaluate"))
        with store.put(key) as folder:
            (folder / "disjoint").touch()
