"""What was cut, as a small file: enough to cut a fresh copy of the network the same way and load its weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport.errors import ConfigError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from edgeport.pruning.groups import Groups
    from edgeport.types import TensorSpec

STRUCTURE, WEIGHTS = "structure.json", "model.safetensors"


class InputShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network input: name in the traced graph, shape without batch, numpy's name of the dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class CutGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group: module paths of its layers, how many channels it had, which of them stayed (ascending)."""

    layers: tuple[str, ...]
    channels: int
    kept: tuple[int, ...]


class CutHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The layer of the class scores: module path, how many classes it had, which stayed and in what order."""

    layer: str
    classes: int
    kept: tuple[int, ...]


class Structure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `structure.json`.

    Attributes:
        schema: version of this format.
        inputs: what the network takes, to trace it again.
        groups: by the module path of the group's first layer (`#2`, ... where that starts several groups); groups that
            were left whole are listed too.
        removed: provenance keys of the additions of residual blocks that were left out, before anything was cut.
        then: a further cut, of the network that this one leaves.
        removed: provenance keys of the additions of residual blocks that were left out, before groups were cut.
        head: how the network was cut to some classes, before everything else; None: it has all of them.
    """

    schema: int = 1
    inputs: tuple[InputShape, ...] = ()
    groups: dict[str, CutGroup] = msgspec.field(default_factory=dict)
    removed: tuple[str, ...] = ()
    then: Structure | None = None

    def followed_by(self, cuts: Sequence[Structure]) -> Structure:
        """Return this cut with others after it, in order."""
        return msgspec.structs.replace(self, then=cuts[0].followed_by(cuts[1:])) if cuts else self

    head: CutHead | None = None

    def save(self, directory: Path) -> None:
        """Write `structure.json` into a folder."""
        (directory / STRUCTURE).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, directory: Path) -> Structure:
        """Read `structure.json` of a folder.

        Raises:
            ConfigError: there is none, or it is not one.
        """
        path = Path(directory) / STRUCTURE
        if not path.is_file():
            raise ConfigError(f"no {STRUCTURE} in '{directory}': a build writes it when it prunes or cuts classes")
        try:
            structure = msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{STRUCTURE}: {error}") from error
        if structure.schema != 1:
            raise ConfigError(f"{STRUCTURE}: schema {structure.schema}; this version of edgeport reads schema 1")
        return structure


def describe(
    groups: Groups, kept: Mapping[str, Sequence[int]], inputs: Sequence[TensorSpec], *, removed: Sequence[str] = ()
) -> Structure:
    """Return the structure of a network pruned with `kept` (groups that it does not name stay whole).

    Args:
        groups: of the network without the `removed` blocks.
        kept: group name -> channels that stay.
        inputs: what the network takes.
        removed: keys of blocks that were left out before.
    """
    return Structure(
        removed=tuple(removed),
        inputs=tuple(InputShape(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in inputs),
        groups={
            group.name: CutGroup(
                layers=group.layers,
                channels=group.channels,
                kept=tuple(kept.get(group.name, range(group.channels))),
            )
            for group in groups.groups
        },
    )


def apply_structure(module: GraphModule, example_inputs: Sequence[torch.Tensor], structure: Structure) -> GraphModule:
    """Return a copy of a traced network, cut as `structure` says.

    Raises:
        ConfigError: the network does not have these groups.
    """
    from edgeport.pruning.blocks import without_blocks
    from edgeport.pruning.groups import find_groups
    from edgeport.pruning.surgery import prune_channels

    if structure.head is not None:
        module = _without_classes(module, example_inputs, structure.head)
        if not structure.groups and not structure.removed:
            return apply_structure(module, example_inputs, structure.then) if structure.then else module
    try:
        module = without_blocks(module, example_inputs, structure.removed) if structure.removed else module
    except ValueError as error:
        raise ConfigError(f"structure and network do not match: {error}") from error
    groups = find_groups(module, example_inputs)
    found = {group.name: group for group in groups.groups}
    for name in (*structure.groups, *found):
        if name not in found or name not in structure.groups:
            where = "the structure" if name in structure.groups else "the network"
            raise ConfigError(f"structure and network do not match: only {where} has channel group '{name}'")
        ours, theirs = found[name], structure.groups[name]
        if (ours.layers, ours.channels) != (theirs.layers, theirs.channels):
            raise ConfigError(
                f"structure and network do not match at '{name}': {theirs.channels} channels in"
                f" {len(theirs.layers)} layers, but the network has {ours.channels} in {len(ours.layers)}"
            )
    try:
        pruned = prune_channels(module, groups, {name: cut.kept for name, cut in structure.groups.items()})
    except ValueError as error:
        raise ConfigError(f"{STRUCTURE}: {error}") from error
    return apply_structure(pruned, example_inputs, structure.then) if structure.then else pruned


def _without_classes(module: GraphModule, example_inputs: Sequence[torch.Tensor], cut: CutHead) -> GraphModule:
    from edgeport.graph.head import cut_head, find_head

    try:
        head = find_head(module, example_inputs, flag=STRUCTURE)
    except StageError as error:
        raise ConfigError(f"structure and network do not match: {error}") from error
    if (head.layer, head.classes) != (cut.layer, cut.classes):
        raise ConfigError(
            f"structure and network do not match at '{cut.layer}': it gave {cut.classes} class scores, but the network"
            f" has {head.classes} from '{head.layer}'"
        )
    if not all(0 <= index < head.classes for index in cut.kept):
        raise ConfigError(f"{STRUCTURE}: head: kept must be classes below {head.classes}, not {list(cut.kept)}")
    return cut_head(module, head, cut.kept)


def load_pruned(factory: Callable[[], object] | torch.nn.Module, directory: Path | str) -> torch.nn.Module:
    """Rebuild a pruned network, or one cut to some classes, from its factory and the folder a build wrote.

    Args:
        factory: what was built: a callable that returns the whole network (or the network and example inputs), or the
            network itself. Its weights do not matter.
        directory: holds `structure.json` and `model.safetensors`.

    Returns:
        The smaller network with its trained weights and inference behaviour; it can be called, fine-tuned and exported.

    Raises:
        ConfigError: a file is missing or damaged, or does not fit the network.
    """
    import torch

    folder = Path(directory)
    structure = Structure.load(folder)
    made = factory if isinstance(factory, torch.nn.Module) else factory()
    network = made[0] if isinstance(made, tuple) else made
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"the factory returned {type(network).__name__}, not a torch.nn.Module")
    module, example_inputs = _trace(network.eval(), structure)
    pruned = apply_structure(module, example_inputs, structure)
    _load_weights(pruned, folder / WEIGHTS)
    return pruned


def _trace(network: torch.nn.Module, structure: Structure) -> tuple[GraphModule, tuple[torch.Tensor, ...]]:
    """Trace with zeros of the recorded shapes, the batch dimension dynamic where the network allows."""
    import torch
    from torch.fx import GraphModule

    from edgeport.graph.functional import make_functional

    pair, single = (
        tuple(torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype)) for spec in structure.inputs)
        for batch in (2, 1)
    )
    try:
        with torch.no_grad():
            network(*single)
    except Exception as error:  # the user's own code may raise anything; it is told as it is
        shapes = ", ".join(str(tuple(value.shape)) for value in single)
        raise ConfigError(f"the network does not take the recorded inputs of shape {shapes}: {error}") from error
    program = _exported(network, pair, single)
    inner = program.module(check_guards=False)
    module = GraphModule(inner, inner.graph)
    make_functional(module)  # as the trace stage did: overwriting operators have no channel rules
    return module, single


def _exported(
    network: torch.nn.Module, pair: tuple[torch.Tensor, ...], single: tuple[torch.Tensor, ...]
) -> ExportedProgram:
    import inspect

    import torch

    batch = torch.export.Dim("batch", min=1)
    dims: tuple[object, ...] = tuple({0: batch} for _ in pair)
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    shapes = (dims,) if inspect.Parameter.VAR_POSITIONAL in kinds[:1] else dims
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates its own internals while it traces
        try:
            return torch.export.export(network, pair, dynamic_shapes=shapes)
        except Exception:  # noqa: BLE001  # torch.export raises dozens of types; the static trace decides
            try:
                return torch.export.export(network, single)
            except Exception as error:  # as above: dozens of types
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ConfigError(f"the network cannot be traced: {first}") from error


def _load_weights(module: GraphModule, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"no {WEIGHTS} in '{path.parent}'")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{WEIGHTS} cannot be read: {error}") from error
    wanted = module.state_dict()
    wrong = sorted(
        name
        for name in wanted.keys() | weights.keys()
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape
    )
    if wrong:
        raise ConfigError(f"{WEIGHTS} does not fit the pruned network at {', '.join(wrong[:3])} ({len(wrong)} tensors)")
    module.load_state_dict(weights)
