"""Inner values of an OpenVINO file: they are made results; where a value is quantized, what the quantizer gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.debugging.probe import Arrays, Observed

if TYPE_CHECKING:
    from openvino import Model, Output  # type: ignore[import-untyped]  # ships no types

    from edgeport.debugging.files import ModelFile


def open_probe(file: ModelFile, keys: Sequence[str]) -> _Probe:
    """Load a file."""
    return _Probe(file, keys)


class _Probe:
    """Two compiled models: one that gives inner values too, in float32 between layers, and one as it ships."""

    def __init__(self, file: ModelFile, keys: Sequence[str]) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(file.path)
        self.bindings = file.bindings
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        self.shipped = core.compile_model(model, "CPU", options)
        values = _values(model)
        layers = file.bindings.layers
        wanted = {key: values[layers[key]] for key in keys if layers.get(key) in values}
        self.spans: Mapping[str, tuple[float, float]] = {
            key: found for key, value in wanted.items() if (found := _span(value)) is not None
        }
        self.inputs = {name: index for index, value in enumerate(model.inputs) for name in value.get_names()}
        self.outputs = {name: index for index, value in enumerate(model.outputs) for name in value.get_names()}
        results = [_place(result.get_node().input_value(0)) for result in model.outputs]
        for value in wanted.values():
            if _place(value) not in results:  # a value gets one result
                model.add_outputs(value)
                results.append(_place(value))
        self.places = {key: results.index(_place(value)) for key, value in wanted.items()}
        self.keeping = core.compile_model(model, "CPU", {**options, "INFERENCE_PRECISION_HINT": "f32"})

    def run(self, inputs: Arrays) -> Observed:
        feed = {
            self.inputs[binding.tensor]: np.ascontiguousarray(array)
            for binding, array in zip(self.bindings.inputs, inputs, strict=True)
        }
        found = self.keeping(feed)
        shipped = self.shipped(feed)
        return Observed(
            values={key: np.array(found[place]) for key, place in self.places.items()},
            outputs=self._results(found),
            as_shipped=self._results(shipped),
        )

    def _results(self, found: Any) -> tuple[np.ndarray, ...]:
        return tuple(np.array(found[self.outputs[binding.tensor]]) for binding in self.bindings.outputs)


def _values(model: Model) -> dict[str, Output]:
    """Return tensor name -> value, past the quantizer that all its readers share."""
    found: dict[str, Output] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in {"Constant", "Result"}:
            continue
        for value in node.outputs():
            readers = [reader.get_node() for reader in value.get_target_inputs()]
            quantizers = [reader for reader in readers if reader.get_type_name() == "FakeQuantize"]
            seen = quantizers[0].output(0) if quantizers else value
            found |= dict.fromkeys(value.get_names(), seen)
    return found


def _place(value: Output) -> tuple[str, int]:
    return value.get_node().get_friendly_name(), value.get_index()


def _span(value: Output) -> tuple[float, float] | None:
    node = value.get_node()
    if node.get_type_name() != "FakeQuantize":
        return None
    ends = [node.input_value(index).get_node() for index in (3, 4)]
    if any(end.get_type_name() != "Constant" or end.data.size != 1 for end in ends):
        return None
    low, high = (float(end.data.ravel()[0]) for end in ends)
    return low, high
