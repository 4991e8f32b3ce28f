"""The state of a training between two epochs, as one safetensors file that is either old or new, never half written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from edgeport.store import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule

KEY = "edgeport"  # where the JSON lies in the file's metadata


@dataclass(frozen=True, kw_only=True)
class State:
    """A training after some epochs.

    Attributes:
        epochs: epochs that are done.
        tensors: parameters and buffers of the student by name.
        momentum: the optimizer's momentum by parameter name.
        losses: mean loss of each epoch that is done.
        seconds: wall seconds of each epoch that is done.
    """

    epochs: int
    tensors: Mapping[str, torch.Tensor]
    momentum: Mapping[str, torch.Tensor]
    losses: tuple[float, ...]
    seconds: tuple[float, ...]


def save_state(path: Path, state: State, fingerprint: str) -> None:
    """Write the state to a temporary name, sync it to disk and rename it over `path`.

    Args:
        path: the checkpoint; its folder is made when missing.
        state: what to keep.
        fingerprint: identifies the run that may continue from it.
    """
    header = {
        "fingerprint": fingerprint,
        "epochs": state.epochs,
        "losses": state.losses,
        "seconds": state.seconds,
    }
    groups = {"tensor": state.tensors, "momentum": state.momentum}
    flat = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in flat.items()}
    data = save(own, {KEY: json.dumps(header)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_state(path: Path, fingerprint: str) -> State | None:
    """Return the state that a run with this fingerprint left, None when there is none or it is another run's.

    A file that is no checkpoint (cut off, of another version) is nothing to continue from either.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            if header.get("fingerprint") != fingerprint:
                return None
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, json.JSONDecodeError):
        return None
    groups: dict[str, dict[str, torch.Tensor]] = {"tensor": {}, "momentum": {}}
    for name, tensor in flat.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return State(
        epochs=header["epochs"],
        tensors=groups["tensor"],
        momentum=groups["momentum"],
        losses=tuple(header["losses"]),
        seconds=tuple(header["seconds"]),
    )


def fingerprint(options: Mapping[str, object], modules: tuple[GraphModule, ...], data_digest: str) -> str:
    """Return a SHA-256 of everything that decides a training's result, hexadecimal.

    Args:
        options: JSON values.
        modules: networks whose operators and weights count.
        data_digest: identifies the training samples.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([dict(options), data_digest, torch.__version__], sort_keys=True).encode())
    for module in modules:
        digest.update(str(module.code).encode())
        for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
