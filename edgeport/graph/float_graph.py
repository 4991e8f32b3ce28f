"""What a backend lowers: the canonical float network with a batch of one, its provenance and its calibrated ranges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule

from edgeport.errors import StageError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import flat_outputs
from edgeport.graph.moves import on_source_grids
from edgeport.graph.provenance import provenance_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgeport.quant.corrections import LayerWeights
    from edgeport.quant.scheme import Scheme
    from edgeport.types import Model, TensorSpec, WeightBits


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
        ranges: node name -> calibrated (low, high) of each activation that was materialised, a value that was only
            moved with that of where it was computed; empty without calibration.
        corrections: bits of a weight -> node name -> the weight and bias that a layer has in int8 files of these bits.
            `exported`, `module` and `onnx` are the float network, uncorrected.
    """

    exported: torch.export.ExportedProgram
    module: GraphModule
    example_inputs: tuple[torch.Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provenance: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    corrections: Mapping[WeightBits, Mapping[str, LayerWeights]] = field(default_factory=dict)

    @classmethod
    def from_model(cls, model: Model) -> FloatGraph:
        """Fold, canonicalize and re-export a model with a batch of one."""
        canonical = canonicalize(model.module, model.example_inputs)
        with torch.no_grad():
            exported = torch.export.export(canonical, model.example_inputs)
        inner = exported.module(check_guards=False)
        module = GraphModule(inner, inner.graph)
        provenance = provenance_keys(module.graph)
        ranges = on_source_grids(canonical, model.calibration.ranges) if model.calibration else {}
        corrected = {} if model.corrections is None else model.corrections.layers
        return cls(
            exported=exported,
            module=module,
            example_inputs=model.example_inputs,
            inputs=model.inputs,
            outputs=tuple(
                replace(spec, name=name) for spec, name in zip(model.outputs, _output_names(module), strict=True)
            ),
            provenance=provenance,
            ranges={name: ranges[key] for name, key in provenance.items() if key in ranges},
            corrections={
                bits: {name: layers[key] for name, key in provenance.items() if key in layers}
                for bits, layers in corrected.items()
            },
        )

    def corrections_for(self, scheme: Scheme) -> Mapping[str, LayerWeights]:
        """Return node name -> corrected weight and bias of the layers that an int8 file has corrected.

        A layer that stays in a wider format keeps its own; so do all where a layer has one scale for all its channels:
        corrected weights lie on the grid of a scale a channel.
        """
        if not scheme.per_channel:
            return {}
        layers = self.corrections.get(scheme.weight_bits, {})
        return {name: layer for name, layer in layers.items() if self.provenance[name] not in scheme.raised}

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
