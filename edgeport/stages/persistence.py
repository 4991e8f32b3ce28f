"""How the result of each stage lies in the store, and how it becomes a `Model` again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport.errors import StageError
from edgeport.quant.calibration import Calibration
from edgeport.store import copy_atomic
from edgeport.types import StageRecord

if TYPE_CHECKING:
    from edgeport.types import Model

WEIGHTS, STRUCTURE, CALIBRATION, RECORD = "model.safetensors", "structure.json", "calibration.npz", "record.json"
NETWORK = "network.json"  # the graph that the weights belong to
EQUALIZED, EQUALIZED_NETWORK = "equalized.safetensors", "equalized.json"  # what is lowered, where it was equalized
CORRECTIONS = "corrections.npz"
PACKED = (WEIGHTS, STRUCTURE, NETWORK, EQUALIZED, EQUALIZED_NETWORK)  # parts of an output folder


def save_stage(folder: Path, model: Model, record: StageRecord) -> None:
    """Write what `restore_stage` needs, and the record for the report."""
    from safetensors.torch import save

    from edgeport.graph.stored import store_network

    if record.name == "calibrate" and model.calibration is not None:
        model.calibration.save(folder / CALIBRATION)
    elif record.name in ("correct", "finetune") and model.corrections is not None:
        model.corrections.save(folder / CORRECTIONS)
    elif record.name != "equalize" or record.metrics["kept"]:  # what is packed has the names of the user's network
        state = {name: value.detach().clone().contiguous() for name, value in model.module.state_dict().items()}
        file = EQUALIZED if record.name == "equalize" else WEIGHTS
        (folder / file).write_bytes(save(state))  # save_file hides a full disk in an error of its own
        if (network := store_network(model.module)) is not None:
            (folder / (NETWORK if file == WEIGHTS else EQUALIZED_NETWORK)).write_bytes(network)
    if "structure" in record.metrics:
        (folder / STRUCTURE).write_bytes(
            msgspec.json.format(msgspec.json.encode(record.metrics["structure"]), indent=1)
        )
    (folder / RECORD).write_bytes(msgspec.json.encode(record))


def pack_stages(folders: Sequence[Path], out: Path) -> None:
    """Write what a finished network is made of into an output folder: the last weights, and all cuts in order."""
    from edgeport.pruning.structure import Structure

    for part in PACKED:
        holders = [folder for folder in folders if (folder / part).is_file()]
        if part == STRUCTURE and len(holders) > 1:
            first, *others = map(Structure.load, holders)
            first.followed_by(others).save(out)
        elif holders:
            copy_atomic(holders[-1] / part, out / part)


def read_record(folder: Path) -> StageRecord:
    """Return the record of a stored stage."""
    return msgspec.json.decode((folder / RECORD).read_bytes(), type=StageRecord)


def restore_stage(name: str, before: Model, folder: Path) -> Model:
    """Return the model that the stage made of `before`."""
    return _RESTORERS[name](before, folder)


def _restore_calibrated(before: Model, folder: Path) -> Model:
    return before.with_(calibration=Calibration.load(folder / CALIBRATION))


def _restore_equalized(before: Model, folder: Path) -> Model:
    from safetensors.torch import load_file

    from edgeport.graph.canonical import canonicalize

    if not (folder / EQUALIZED).is_file():
        return before  # nothing was kept
    module = canonicalize(before.module, before.example_inputs)
    module.load_state_dict(load_file(folder / EQUALIZED))
    return before.with_(module=module)


def _restore_corrected(before: Model, folder: Path) -> Model:
    from edgeport.quant.corrections import Corrections

    return before.with_(corrections=Corrections.load(folder / CORRECTIONS))


def _restore_pruned(before: Model, folder: Path) -> Model:
    from edgeport.pruning.structure import Structure, apply_structure

    structure = msgspec.json.decode((folder / STRUCTURE).read_bytes(), type=Structure)
    module = apply_structure(before.module, before.example_inputs, structure)
    return _with_weights(before.with_(module=module), folder)


def _restore_trained(before: Model, folder: Path) -> Model:
    return _with_weights(before.with_(module=copy.deepcopy(before.module)), folder)


def _with_weights(model: Model, folder: Path) -> Model:
    from safetensors.torch import load_file

    model.module.load_state_dict(load_file(folder / WEIGHTS))
    return model


_RESTORERS: Mapping[str, Callable[[Model, Path], Model]] = {
    "prune": _restore_pruned,
    "sparsify": _restore_trained,
    "distill": _restore_trained,
    "repair": _restore_trained,
    "equalize": _restore_equalized,
    "calibrate": _restore_calibrated,
    "correct": _restore_corrected,
    "finetune": _restore_corrected,
}


def check_stage(name: str, before: Model, versions: list[int], after: Model) -> None:
    """Check what every stage promises: same interface, finite parameters, input untouched.

    Args:
        name: the stage.
        before: what went in.
        versions: `tensor_versions(before)` from before the stage ran.
        after: what came out.

    Raises:
        StageError: a promise is broken.
    """
    from edgeport.graph.float_graph import check_finite

    if after.inputs != before.inputs or after.outputs != before.outputs:
        raise StageError(f"{name}: changed the network's interface from {before.outputs} to {after.outputs}")
    if tensor_versions(before) != versions:
        raise StageError(f"{name}: changed the network it was given")
    check_finite(after)


def tensor_versions(model: Model) -> list[int]:
    """Return torch's change counter of every parameter and buffer."""
    return [value._version for value in (*model.module.parameters(), *model.module.buffers())]
