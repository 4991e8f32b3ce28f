"""Mistakes put into one finished file: a wrong scale, swapped channels, a dropped bias, a wrong padding.

Each is what a converter's or an editor's bug would leave: the file still loads and runs, and its shapes are unchanged.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

FACTOR = 1.5  # of a wrong scale
ENDS = {"pads_begin": "0, 0", "pads_end": "2, 2"}  # instead of 1, 1 and 1, 1: the picture slides by one pixel


def onnx_fault(path: Path, fault: str, value: str) -> None:
    """Spoil the convolution that makes `value`, in its int8 or its float form."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    conv = next(
        node
        for node in model.graph.node
        if node.op_type == "Conv" and (node.output[0] == value or node.output[0] == f"{value}:real")
    )

    def parts(position: int) -> list[onnx.TensorProto]:
        """Return the tensors that hold this input by output channel: integers and scales, or the floats."""
        source = made.get(conv.input[position])
        names = [conv.input[position]] if source is None else list(source.input[:2])
        return [arrays[name] for name in names]

    def change(tensor: onnx.TensorProto, array: np.ndarray) -> None:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))

    if fault == "scale":
        for position in (1, 2):
            tensor = parts(position)[-1]
            change(tensor, (numpy_helper.to_array(tensor) * np.float32(FACTOR)).astype(np.float32))
    elif fault == "channels":
        for tensor in (*parts(1), *parts(2)):
            change(tensor, numpy_helper.to_array(tensor)[::-1])
    elif fault == "bias":
        tensor = parts(2)[0]
        change(tensor, np.zeros_like(numpy_helper.to_array(tensor)))
    elif fault == "padding":
        pads = next(attribute for attribute in conv.attribute if attribute.name == "pads")
        pads.ints[:] = [0, 0, 2, 2]
    onnx.save(model, path)


def tflite_fault(path: Path, fault: str, layer: str) -> None:
    """Spoil the convolution with this provenance key; for the padding, the PAD before it."""
    from edgeport.quant.tflite_file import read, write

    model = read(path.read_bytes())
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    weight, bias = tensors[f"{layer};1"], tensors[f"{layer};2"]

    def array(tensor: Any) -> np.ndarray:
        kinds = {0: np.float32, 2: np.int32, 9: np.int8}
        data = bytes(model.buffers[tensor.buffer].data)
        return np.frombuffer(data, kinds[tensor.type]).reshape([int(size) for size in tensor.shape])

    def change(tensor: Any, values: np.ndarray) -> None:
        model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)

    if fault == "scale":
        for tensor in (weight, bias):
            if tensor.type == 0:
                change(tensor, array(tensor) * np.float32(FACTOR))
            else:
                tensor.quantization.scale = np.asarray(tensor.quantization.scale) * np.float32(FACTOR)
    elif fault == "channels":
        for tensor in (weight, bias):
            change(tensor, array(tensor)[::-1])
            if tensor.type != 0:
                tensor.quantization.scale = np.asarray(tensor.quantization.scale)[::-1].copy()
    elif fault == "bias":
        change(bias, np.zeros_like(array(bias)))
    elif fault == "padding":
        place = next(
            operator.inputs[0]
            for operator in model.subgraphs[0].operators
            if any(int(index) >= 0 and model.subgraphs[0].tensors[index] is weight for index in operator.inputs)
        )
        pad = next(operator for operator in model.subgraphs[0].operators if place in operator.outputs)
        sides = model.subgraphs[0].tensors[pad.inputs[1]]
        change(sides, np.array([[0, 0], [0, 2], [0, 2], [0, 0]], np.int32))
    path.write_bytes(write(model))


def openvino_fault(path: Path, fault: str, value: str) -> None:
    """Spoil the convolution whose result with bias is the tensor `value`."""
    import openvino  # type: ignore[import-untyped]  # ships no types
    from openvino import opset13

    if fault == "padding":
        text = path.read_text(encoding="utf-8")
        name = f'name="node_{value}" type="Convolution"'
        before, _, after = text.partition(name)
        end = after.index("</layer>")
        spoiled = after[:end]
        for side, sizes in ENDS.items():
            spoiled = re.sub(rf'{side}="1, ?1"', f'{side}="{sizes}"', spoiled)
        assert spoiled != after[:end]
        path.write_text(before + name + spoiled + after[end:], encoding="utf-8")
        return
    model = openvino.Core().read_model(path)
    addition = next(
        node for node in model.get_ordered_ops() if any(value in output.get_names() for output in node.outputs())
    )
    conv = addition.input_value(0).get_node()
    weight = conv.input_value(1).get_node()
    bias = addition.input_value(1).get_node()
    where = [(addition, 1, bias)]
    if weight.get_type_name() == "Constant":
        where.append((conv, 1, weight))
    else:  # integers -> Convert -> Multiply by a scale a channel
        where.append((weight, 1, weight.input_value(1).get_node()))
    if fault == "channels":
        axis = {0: 1, 1: 0}  # the bias is (1, out, 1, 1)
        if weight.get_type_name() != "Constant":
            convert = weight.input_value(0).get_node()
            where.append((convert, 0, convert.input_value(0).get_node()))
        for index, (node, place, constant) in enumerate(where):
            values = np.flip(constant.data, axis.get(index, 0) if index == 0 else 0).copy()
            node.input(place).replace_source_output(opset13.constant(values).output(0))
    elif fault == "bias":
        node, place, constant = where[0]
        node.input(place).replace_source_output(opset13.constant(np.zeros_like(constant.data)).output(0))
    elif fault == "scale":
        for node, place, constant in where:
            values = (constant.data * np.float32(FACTOR)).astype(np.float32)
            node.input(place).replace_source_output(opset13.constant(values).output(0))
    spoiled_path = path.with_name("spoiled.xml")
    openvino.save_model(model, spoiled_path, compress_to_fp16=False)
    del model
    spoiled_path.replace(path)
    spoiled_path.with_suffix(".bin").replace(path.with_suffix(".bin"))
