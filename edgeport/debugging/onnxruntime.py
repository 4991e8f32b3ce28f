"""Inner values of an .onnx: they are made outputs; integers are turned into reals with their quantizer's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.debugging.probe import Arrays, Observed, dequantized, span

if TYPE_CHECKING:
    import onnx

    from edgeport.debugging.files import ModelFile

Mapped = tuple[float, int, np.dtype]
MOVES = frozenset(
    (
        *("Clip", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze"),
        *("Transpose", "Unsqueeze"),
    )
)  # what works on integers without changing their meaning


def open_probe(file: ModelFile, keys: Sequence[str]) -> _Probe:
    """Load a file."""
    return _Probe(file, keys)


class _Probe:
    """Two sessions: one whose graph gives inner values too, and one as it ships."""

    def __init__(self, file: ModelFile, keys: Sequence[str]) -> None:
        import onnx

        model = onnx.load(file.path)
        self.bindings = file.bindings
        mapped = _mappings(model.graph)
        made = {name for node in model.graph.node for name in node.output}
        made |= {value.name for value in model.graph.input}
        layers = file.bindings.layers
        names = {key: _visible(layers[key], made, mapped) for key in keys if key in layers}
        self.places = {key: name for key, name in names.items() if name is not None}
        self.mapped = {name: mapped[name] for name in self.places.values() if name in mapped}
        self.spans: Mapping[str, tuple[float, float]] = {
            key: span(self.mapped[name][2], *self.mapped[name][:2])
            for key, name in self.places.items()
            if name in self.mapped
        }
        self.shipped = _session(model.SerializeToString())
        known = {value.name for value in (*model.graph.output, *model.graph.input)}
        more = [name for name in dict.fromkeys(self.places.values()) if name not in known]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)  # the runtime knows their types
        self.keeping = _session(model.SerializeToString())

    def run(self, inputs: Arrays) -> Observed:
        feed = {
            binding.tensor: np.ascontiguousarray(array)
            for binding, array in zip(self.bindings.inputs, inputs, strict=True)
        }
        names = [output.name for output in self.keeping.get_outputs()]
        found = feed | dict(zip(names, self.keeping.run(names, feed), strict=True))
        results = [binding.tensor for binding in self.bindings.outputs]
        shipped = self.shipped.run(results, feed)
        return Observed(
            values={key: self._real(name, found[name]) for key, name in self.places.items()},
            outputs=tuple(found[name] for name in results),
            as_shipped=tuple(shipped),
        )

    def _real(self, name: str, array: np.ndarray) -> np.ndarray:
        if name not in self.mapped:
            return array
        scale, zero_point, _ = self.mapped[name]
        return dequantized(array, scale, zero_point)


def _visible(name: str, made: set[str], mapped: Mapping[str, Mapped]) -> str | None:
    """Return the integers of a value where it has any, else the value; None where the file has neither."""
    integers = [other for other in mapped if other.partition(":")[0] == name]
    return integers[0] if integers else name if name in made else None


def _mappings(graph: onnx.GraphProto) -> dict[str, Mapped]:
    """Return integer activation -> scale, zero point and type, from the quantizers before or after it."""
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: dict[str, Mapped] = {}
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or len(node.input) < 3:
            continue
        value = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        scale, zero_point = (constants.get(name) for name in node.input[1:3])
        if value not in constants and scale is not None and zero_point is not None and scale.size == 1:
            found.setdefault(value, (float(scale.ravel()[0]), int(zero_point.ravel()[0]), zero_point.dtype))
    for node in graph.node:
        if node.op_type in MOVES and node.input[0] in found:
            for name in node.output:
                found.setdefault(name, found[node.input[0]])
    return found


def _session(content: bytes) -> Any:
    import onnxruntime  # type: ignore[import-untyped]  # ships no types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # vendor's edge: its exceptions have no common class of their own
        raise RuntimeError(str(error)) from error
