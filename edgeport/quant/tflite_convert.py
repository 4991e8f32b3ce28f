"""Turn a float network into TFLite bytes with litert-torch: channels last, silent, without traces of this machine."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from edgeport.errors import LoweringError
from edgeport.quant.tflite_diagnosis import explain
from edgeport.quant.tflite_file import silenced
from edgeport.quant.tflite_match import channels_last, file_layout, match_tensors, rename_tensors
from edgeport.quant.tflite_shortcuts import slices_as_convolutions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeport.graph.float_graph import FloatGraph


def convert(graph: FloatGraph) -> bytes:
    """Return the float file; pictures and volumes are channels last at inputs and outputs, tensors named by provenance.

    Raises:
        ModuleNotFoundError: litert-torch is not installed.
        LoweringError: an operator has no TFLite form; it and its layer are named.
    """
    with silenced(), _no_garbage_collection():
        import litert_torch  # type: ignore[import-untyped]  # ships no types
        from litert_converter.mlir.ir import MLIRError  # type: ignore[import-untyped]  # ships no types

        litert_torch.config.show_progress = False
        failures = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, MLIRError)

        def converts(part: GraphModule) -> bool:
            try:
                _convert(part, graph.example_inputs)
            except failures:
                return False
            return True

        try:
            content = _convert(slices_as_convolutions(graph.module), graph.example_inputs)
        except failures as error:
            raise LoweringError(explain(error, graph, converts)) from error
        return rename_tensors(content, graph, match_tensors(content, graph))


def _convert(module: GraphModule, inputs: tuple[torch.Tensor, ...]) -> bytes:
    import litert_torch

    example = tuple(torch.from_numpy(file_layout(value)) for value in inputs)
    with torch.no_grad():
        return bytes(litert_torch.convert(_ChannelsLast(module, inputs), example).model_content())


class _ChannelsLast(torch.nn.Module):
    """The network with a flat tuple of outputs, and pictures and volumes channels last on both sides."""

    def __init__(self, module: GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.network = GraphModule(module, module.graph)
        self.moved = tuple(channels_last(value) for value in inputs)
        for part in self.modules():  # an exported module's own eval() raises, and nothing in an ATen graph reads it
            part.training = False

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs for inputs in the file's layout."""
        inputs = tuple(x.movedim(-1, 1) if moved else x for x, moved in zip(inputs, self.moved, strict=True))
        outputs = (leaf for leaf in tree_leaves(self.network(*inputs)) if isinstance(leaf, torch.Tensor))
        return tuple(y.movedim(1, -1) if channels_last(y) else y for y in outputs)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of small objects that live: collections walk them for 10 % of the time, in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
