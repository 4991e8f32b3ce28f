"""A digest of everything that decides what a network computes, without tracing it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

INSTALLED = {"site-packages", "dist-packages"}
PLAIN = (bool, int, float, str, bytes, type(None))


def network_fingerprint(network: nn.Module, folder: Path | None) -> str:
    """Return a digest of weights, structure, plain attributes and source code of a network.

    Args:
        network: the eval-mode network.
        folder: where the user's own modules lie; the source of every module loaded from there counts.
    """
    state = hashlib.blake2b(digest_size=20)
    sources: set[Path] = set()
    for path, module in network.named_modules():
        kind = type(module)
        state.update(f"{path}={kind.__module__}.{kind.__qualname__}{_plain_attributes(module)}\n".encode())
        if source := _source_of(kind):
            sources.add(Path(source))
    if folder is not None:
        sources |= {file for file in _loaded_files() if file.is_relative_to(folder)}
    for name, value in network.state_dict().items():
        array = value.detach().cpu().contiguous()
        state.update(f"{name}:{array.dtype}{tuple(array.shape)}".encode())
        state.update(array.reshape(-1).view(_bytes()).numpy().data if array.numel() else b"")
    named = {file.name.encode() + b"\0" + file.read_bytes() for file in sources}
    for content in sorted(named):  # by content: where the files lie must not decide their order
        state.update(content)
    return state.hexdigest()


def _source_of(kind: type[nn.Module]) -> str | None:
    """Return the file that a module class comes from; None where there is none."""
    try:
        return inspect.getsourcefile(kind)
    except TypeError:  # the user's code loaded its file without putting it into sys.modules
        code = getattr(kind.forward, "__code__", None)
        return code.co_filename if code is not None and Path(code.co_filename).is_file() else None


def _bytes() -> object:
    import torch

    return torch.uint8


def _loaded_files() -> set[Path]:
    """Return the sources of all loaded modules but installed ones: an environment may lie in the user's folder."""
    names = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = [Path(name) for name in names if name and name.endswith(".py")]
    return {
        file.resolve()
        for file in files
        if file.is_absolute()  # torch has modules whose file is called `_classes.py`, and is none
        and not file.is_relative_to(sys.prefix)
        and INSTALLED.isdisjoint(file.parts)
    }


def _plain_attributes(module: nn.Module) -> str:
    """Return name=value of attributes that are plain values or functions, or (nested) tuples, lists, dicts of them."""
    named = ((name, value) for name, value in vars(module).items() if not name.startswith("_"))
    return repr(sorted((name, _plain(value)) for name, value in named if _is_plain(value)))


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, partial):
        return _is_plain((value.func, value.args, value.keywords))
    return isinstance(value, (*PLAIN, FunctionType, BuiltinFunctionType))


def _plain(value: object) -> object:
    """Return a plain value with functions, as in `self.activation = F.relu`, replaced by what tells them apart."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return [(_plain(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, partial):
        return _plain((value.func, value.args, value.keywords))
    if isinstance(value, FunctionType):
        code, captured = value.__code__, inspect.getclosurevars(value).nonlocals
        constants = [item for item in code.co_consts if isinstance(item, PLAIN)]
        cells = [(name, getattr(item, "__qualname__", item)) for name, item in captured.items() if _is_plain(item)]
        return [value.__module__, value.__qualname__, code.co_code, code.co_names, constants, cells]
    if isinstance(value, BuiltinFunctionType):
        return [value.__module__, value.__qualname__]
    return value
