"""What a backend lowers: the canonical float network with a batch of one, its provenance and its calibrated ranges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule

from edgeport.errors import StageError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import flat_outputs
from edgeport.graph.provenance import provenance_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgeport.types import Model, TensorSpec


@dataclass(frozen=True, kw_only=True)
class FloatGraph:
    """A canonical network, exported with a batch of one.

    Attributes:
        exported: the `ExportedProgram`; node names are those of `module`.
        module: the same graph as a `GraphModule`; batch norms folded, weights as `get_attr` nodes.
        example_inputs: one real sample, channels first, batch of one.
        inputs: input specifications (shapes without batch), in order.
        outputs: output specifications, in order; each is named as the node that makes it.
        provenance: node name -> provenance key.
        ranges: node name -> calibrated (low, high) of each activation that was materialised; empty without calibration.
    """

    exported: torch.export.ExportedProgram
    module: GraphModule
    example_inputs: tuple[torch.Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provenance: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def from_model(cls, model: Model) -> FloatGraph:
        """Fold, canonicalize and re-export a model with a batch of one."""
        canonical = canonicalize(model.module, model.example_inputs)
        with torch.no_grad():
            exported = torch.export.export(canonical, model.example_inputs)
        inner = exported.module(check_guards=False)
        module = GraphModule(inner, inner.graph)
        provenance = provenance_keys(module.graph)
        found = {name: model.calibration.range_of(key) for name, key in provenance.items()} if model.calibration else {}
        return cls(
            exported=exported,
            module=module,
            example_inputs=model.example_inputs,
            inputs=model.inputs,
            outputs=tuple(
                replace(spec, name=name) for spec, name in zip(model.outputs, _output_names(module), strict=True)
            ),
            provenance=provenance,
            ranges={name: ends for name, ends in found.items() if ends is not None},
        )

    def activations(self, inputs: tuple[torch.Tensor, ...] | None = None) -> dict[str, torch.Tensor]:
        """Return node name -> value of every activation for one sample (default: the example)."""
        from edgeport.graph.shapes import activation_values

        return activation_values(self.module, inputs or self.example_inputs)

    def outputs_of(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return the network's outputs for one sample."""
        with torch.no_grad():
            return flat_outputs(self.module(*inputs))

    @cached_property
    def onnx(self) -> onnx.ModelProto:
        """The float network as ONNX; value names as `export_onnx` says, no metadata, batch of one.

        Raises:
            MissingPackageError: onnx or onnxscript is not installed.
            LoweringError: an operator has no ONNX form.
        """
        from edgeport.graph.onnx_export import export_onnx

        return export_onnx(self.exported, self.inputs, self.outputs)


def _output_names(module: GraphModule) -> list[str]:
    from torch.utils._pytree import tree_leaves

    output = next(node for node in module.graph.nodes if node.op == "output")
    return [node.name for node in tree_leaves(output.args) if isinstance(node, torch.fx.Node)]


def check_finite(model: Model) -> None:
    """Raise when a parameter or buffer is NaN or infinite.

    Raises:
        StageError: naming the first such tensor.
    """
    for name, value in model.module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise StageError(f"weight '{name}' holds NaN or infinite values")
