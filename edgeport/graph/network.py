"""Get the user's network: import the factory, load weights without pickle, or open a `.pt2`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import ConfigError, StageError, did_you_mean
from edgeport.graph.fingerprint import network_fingerprint
from edgeport.graph.quiet import quiet
from edgeport.store import digest, file_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import torch
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the user handed in.

    Attributes:
        name: for the report: the factory's or the file's name.
        module: the eval-mode network, or the program of a `.pt2`.
        example_inputs: inputs that the user supplied with it (batch first); None when the data gives them.
        fingerprint: digest of weights, structure and code.
        input_shapes: shapes without batch that the user wrote beside the network; None: not said.
    """

    name: str
    module: nn.Module | ExportedProgram
    example_inputs: tuple[torch.Tensor, ...] | None
    fingerprint: str
    input_shapes: tuple[tuple[int, ...], ...] | None = None


def load_network(model: str, weights: str | None, *, seed: int) -> Network:
    """Return the network that MODEL and `--weights` name.

    Args:
        model: `module:factory`, `file.py:factory` or a `.pt2`. A factory takes nothing and returns an `nn.Module`, or
            `(nn.Module, example_inputs)`. For builds without data, `example_inputs` (a tensor or some, batch first) or
            `input_shape` (`(3, 32, 32)`, or one such tuple an input) may be an attribute of the network or of the
            factory, or a variable in the factory's file; the first found counts.
        weights: a `.safetensors`, or a `.pt`/`.pth` that holds a `state_dict`.
        seed: torch is seeded with it before the factory runs.

    Raises:
        ConfigError: nothing there, not a network, or weights that do not fit.
        StageError: the factory raised; its message and line are given.
    """
    import torch

    if model.endswith(".pt2"):
        if weights is not None:
            raise ConfigError("--weights does not go with a .pt2: it holds its own weights")
        return _open_program(Path(model))
    factory, folder = find_factory(model)
    torch.manual_seed(seed)
    module, example_inputs = _call_factory(factory, model)
    example_inputs, input_shapes = _declared(module, factory, example_inputs)
    if weights is not None:
        _load_weights(module, Path(weights))
    module.eval()
    name = model.rpartition(":")[2]
    # the name too: factories of one file may hand functions to one class, whose weights then come out the same
    fingerprint = digest(name, network_fingerprint(module, folder))
    return Network(
        name=name,
        module=module,
        example_inputs=example_inputs,
        fingerprint=fingerprint,
        input_shapes=input_shapes,
    )


def find_factory(model: str) -> tuple[Callable[[], object], Path | None]:
    """Return the callable that `module:name` or `file.py:name` names, and the folder that its file or package lies in.

    Raises:
        ConfigError: bad form, no such file, module or name.
        StageError: importing it raised.
    """
    place, separator, name = model.rpartition(":")
    if not separator or not place or not name:
        raise ConfigError(f"model '{model}' is not module:factory, file.py:factory or a .pt2 file")
    module, folder = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"'{place}' has no callable '{name}'{did_you_mean(name, known)}")
    return found, folder


def _import_file(path: Path) -> tuple[ModuleType, Path]:
    if not path.is_file():
        raise ConfigError(f"no model file '{path}'")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"'{path.name}' is not a Python file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; it is told as it is
        sys.modules.pop(path.stem, None)
        raise StageError(f"importing '{path.name}' raised {_told(error, path.parent)}") from error
    return module, path.parent


def _import_module(name: str) -> tuple[ModuleType, Path | None]:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"no module '{name}' (for a file write path/{name.rsplit('.', maxsplit=1)[-1]}.py:factory)"
            ) from error
        raise StageError(f"importing '{name}' raised {_told(error, None)}") from error
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; it is told as it is
        raise StageError(f"importing '{name}' raised {_told(error, None)}") from error
    file = getattr(sys.modules[name.partition(".")[0]], "__file__", None)  # None: built in, or of several folders
    return module, None if file is None else Path(file).resolve().parent


def _call_factory(factory: Callable[[], object], model: str) -> tuple[nn.Module, tuple[torch.Tensor, ...] | None]:
    import torch

    try:
        made = factory()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; it is told as it is
        raise StageError(f"factory '{model.rpartition(':')[2]}' raised {_told(error, None)}") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"factory '{model}' returned {type(made).__name__}, not a torch.nn.Module")
    return module, None if example is None else _example("the factory's second result", example)


def _declared(
    module: nn.Module, factory: Callable[[], object], example: tuple[torch.Tensor, ...] | None
) -> tuple[tuple[torch.Tensor, ...] | None, tuple[tuple[int, ...], ...] | None]:
    """Return example inputs and input shapes from where the user may have written them: one of both, or neither."""
    if example is not None:
        return example, None
    file = sys.modules.get(getattr(factory, "__module__", ""))
    for place in (module, factory, file):
        if (found := getattr(place, "example_inputs", None)) is not None:
            return _example("example_inputs", found), None
        if (found := getattr(place, "input_shape", None)) is not None:
            return None, _shapes(found)
    return None, None


def _example(name: str, value: object) -> tuple[torch.Tensor, ...]:
    import torch

    values = (value,) if isinstance(value, torch.Tensor) else value
    if not isinstance(values, (tuple, list)) or not values or not all(isinstance(v, torch.Tensor) for v in values):
        raise ConfigError(f"{name} is a {type(value).__name__}, not a tensor or a tuple of tensors (batch first)")
    return tuple(values)


def _shapes(value: object) -> tuple[tuple[int, ...], ...]:
    rows = value if isinstance(value, (tuple, list)) and value and isinstance(value[0], (tuple, list)) else (value,)
    for row in rows:
        if not isinstance(row, (tuple, list)) or not row or not all(isinstance(n, int) and n > 0 for n in row):
            raise ConfigError(f"input_shape is {value!r}; needs sizes without the batch, such as (3, 32, 32)")
    return tuple(tuple(row) for row in rows)


def _told(error: BaseException, folder: Path | None) -> str:
    """Return `TypeName: message (file.py, line N)` of the innermost line of the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<frozen" not in frame.filename]
    own = [frame for frame in own if Path(frame.filename).resolve() != Path(__file__).resolve()]
    inside = [frame for frame in own if folder is not None and Path(frame.filename).is_relative_to(folder)] or own
    where = f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}{where}"


def _load_weights(module: nn.Module, path: Path) -> None:
    state = _read_state(path)
    wanted = module.state_dict()
    problems = []
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and tuple(state[name].shape) != tuple(wanted[name].shape)]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{label}: {', '.join(names[:3])}{more}")
    if problems:
        is_wrapped = all(name.startswith("module.") for name in state)
        hint = "; save network.module.state_dict(), without DataParallel's prefix" if is_wrapped else ""
        raise ConfigError(f"weights '{path.name}' do not fit the network; {'; '.join(problems)}{hint}")
    module.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"no weights file '{path}'")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"weights '{path.name}' cannot be read: {error}") from error
    try:
        with quiet():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch's unpickler raise whatever its bytes happen to mean
        raise ConfigError(f"weights '{path.name}' {_why_unreadable(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ConfigError(f"weights '{path.name}' hold a {type(state).__name__}, not a state_dict (name -> tensor)")
    if others := [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ConfigError(
            f"weights '{path.name}' are not a state_dict (name -> tensor): no tensors under {', '.join(others[:3])};"
            " save network.state_dict() alone"
        )
    return state


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text:
        return "are a TorchScript program; save network.state_dict(), best as .safetensors"
    if "global" in text.lower():  # "Unsupported global: GLOBAL package.Class was not an allowed global by default"
        return (
            "hold pickled objects, which could run any code, and are not loaded;"
            " save network.state_dict(), best as .safetensors"
        )
    return "cannot be read: damaged, cut off, or not written by torch.save"


@contextmanager
def _without_pickle() -> Iterator[None]:
    """Refuse pickled objects in everything that torch reads: `torch.export.load` retries with them where it fails."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    previous = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous


def _open_program(path: Path) -> Network:
    import pickle
    import zipfile

    import torch

    if not path.is_file():
        raise ConfigError(f"no model file '{path}'")
    try:
        with _without_pickle(), quiet():
            program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"'{path.name}' is not a program saved by torch.export.save: {first}") from error
    example = program.example_inputs[0] if program.example_inputs else None
    return Network(
        name=path.stem,
        module=program,
        example_inputs=None if example is None else tuple(example),
        fingerprint=file_digest(path),
    )
