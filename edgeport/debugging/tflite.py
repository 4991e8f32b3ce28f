"""Inner values of a .tflite: LiteRT's own kernels with every tensor kept; tensors are named by provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.debugging.probe import Arrays, Observed, channels_first, dequantized, span
from edgeport.quant.tflite_file import operators, read, silenced, tensor_name

if TYPE_CHECKING:
    from edgeport.debugging.files import ModelFile, Tensor

QUANTIZED_INPUT = "_quantized"  # what ai-edge-quantizer appends to the name of a float input's integers


def open_probe(file: ModelFile, keys: Sequence[str]) -> _Probe:
    """Load a file."""
    with silenced():
        return _Probe(file, keys)


class _Probe:
    """Two interpreters: one that keeps all tensors, without delegates, and one as it ships."""

    def __init__(self, file: ModelFile, keys: Sequence[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType  # type: ignore[import-untyped]  # no types

        content = file.path.read_bytes()
        self.bindings = file.bindings
        self.keeping = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        self.shipped = Interpreter(model_content=content, num_threads=1)
        for interpreter in (self.keeping, self.shipped):
            interpreter.allocate_tensors()
        model = read(content)
        signature = model.signatureDefs[0]
        self.inputs = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.inputs}
        self.outputs = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
        self.details = {detail["index"]: detail for detail in self.keeping.get_tensor_details()}
        self.places = self._places(model, set(keys))
        self.spans: Mapping[str, tuple[float, float]] = {
            key: span(np.dtype(self.details[index]["dtype"]), *self._mapping(index))
            for key, index in self.places.items()
            if self._mapping(index)[0]
        }

    def _places(self, model: Any, keys: set[str]) -> dict[str, int]:
        """Return key -> tensor; a float input is looked at where it has become integers."""
        found: dict[str, int] = {}
        for index in [*self.inputs.values(), *(index for op in operators(model) for index in op.outputs)]:
            name = tensor_name(model, index)
            key = name.removesuffix(QUANTIZED_INPUT)
            if key in keys and (key == name or key in found):
                found[key] = index
        return found

    def run(self, inputs: Arrays) -> Observed:
        for interpreter in (self.keeping, self.shipped):
            for binding, array in zip(self.bindings.inputs, inputs, strict=True):
                index = self.inputs[binding.tensor]
                interpreter.set_tensor(index, self._laid(array, binding, index))
            interpreter.invoke()
        return Observed(
            values={key: self._real(self.keeping, index) for key, index in self.places.items()},
            outputs=self._results(self.keeping),
            as_shipped=self._results(self.shipped),
        )

    def _results(self, interpreter: Any) -> tuple[np.ndarray, ...]:
        return tuple(
            channels_first(self._real(interpreter, self.outputs[binding.tensor]), moved=binding.channels_last)
            for binding in self.bindings.outputs
        )

    def _laid(self, array: np.ndarray, binding: Tensor, index: int) -> np.ndarray:
        """Return an input as the file takes it."""
        laid = np.moveaxis(array, 1, -1) if binding.channels_last and array.ndim > 2 else array
        dtype = np.dtype(self.details[index]["dtype"])
        scale, zero_point = self._mapping(index)
        if scale:
            ends = np.iinfo(dtype)
            laid = np.clip(np.rint(laid / scale) + zero_point, ends.min, ends.max)
        return np.ascontiguousarray(laid, dtype)

    def _mapping(self, index: int) -> tuple[float, int]:
        """Return scale and zero point; scale 0 where the tensor is not quantized, or by channel."""
        scale, zero_point = self.details[index]["quantization"]
        return float(scale), int(zero_point)

    def _real(self, interpreter: Any, index: int) -> np.ndarray:
        array: np.ndarray = interpreter.get_tensor(index)
        scale, zero_point = self._mapping(index)
        return dequantized(array, scale, zero_point) if scale else array
