"""Turn a float network into TFLite bytes with litert-torch: channels last, silent, without traces of this machine."""

from __future__ import annotations

import contextlib
import gc
import re
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from edgeport.errors import LoweringError
from edgeport.graph.provenance import operator_name
from edgeport.quant.tflite_file import silenced
from edgeport.quant.tflite_match import channels_last, file_layout, match_tensors, rename_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeport.graph.float_graph import FloatGraph


def convert(graph: FloatGraph) -> bytes:
    """Return the float file; pictures and volumes are channels last at inputs and outputs, tensors named by provenance.

    Raises:
        ModuleNotFoundError: litert-torch is not installed.
        LoweringError: an operator has no TFLite form; it and its layer are named.
    """
    module = _ChannelsLast(graph)
    example = tuple(torch.from_numpy(file_layout(value)) for value in graph.example_inputs)
    with silenced() as output, _no_garbage_collection():
        import litert_torch  # type: ignore[import-untyped]  # ships no types
        from litert_converter.mlir.ir import MLIRError  # type: ignore[import-untyped]  # ships no types
        from litert_torch import config

        config.show_progress = False
        failures = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, MLIRError)
        try:
            with torch.no_grad():
                content = bytes(litert_torch.convert(module, example).model_content())
        except failures as error:
            raise LoweringError(_explanation(error, output, graph)) from error
        return rename_tensors(content, graph, match_tensors(content, graph))


class _ChannelsLast(torch.nn.Module):
    """The network with a flat tuple of outputs, and pictures and volumes channels last on both sides."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__()
        self.network = GraphModule(graph.module, graph.module.graph)
        self.moved = tuple(channels_last(value) for value in graph.example_inputs)
        for module in self.modules():  # an exported module's own eval() raises, and nothing in an ATen graph reads it
            module.training = False

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


def _explanation(error: BaseException, output: Path, graph: FloatGraph) -> str:
    """Return one line that names the operator and, where the network has it under that name, the layer."""
    text = f"{error}\n{output.read_text(errors='replace')}"
    found = re.search(r"(?:Lowering not found: |operator[: ]+'?|unsupported.*?: ?)((?:aten|torchvision|prims)[.:]+\w+)", text)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reason = reason[:1].lower() + reason[1:].rstrip(".")
    if found is None:
        return f"tflite: the converter failed: {reason[:300]}"
    name = re.split(r"[.:]+", found[1])[1]
    where = next(
        (
            graph.provenance[node.name]
            for node in graph.module.graph.nodes
            if node.name in graph.provenance and node.op == "call_function" and _resembles(operator_name(node), name)
        ),
        None,
    )
    layer = "" if where is None else f" (layer '{where}')"
    return f"tflite has no form of operator '{name}'{layer}; replace it in the model"


def _resembles(network: str, lowered: str) -> bool:
    """Whether an operator of the network may have become `lowered`: `linalg_inv` becomes `linalg_inv_ex`, `sort` `sort`."""
    plain = (network.strip("_"), lowered.strip("_"))
    return plain[0] == plain[1] or plain[1].startswith(plain[0]) or plain[0].startswith(plain[1])
