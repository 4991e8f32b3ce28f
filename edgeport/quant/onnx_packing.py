"""Keep int8 constants of an ONNX graph that fit four bits as INT4, two to a byte.

ONNX Runtime widens them with the Cast behind them once, when it loads the file, and computes as with any int8 weight. A
DequantizeLinear of INT4 itself has no integer kernel behind it: its layers run in float32 and unpack at every inference
(onnxruntime 1.32: convolutions take 3 times as long as in int8, linear layers 9 times).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeport.quant.packing import pack

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

INT4_OPSET, INT4_IR = 21, 10  # the first with INT4 tensors (onnx/docs/Versioning.md, Changelog of Cast)


def pack_constants(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Replace initializers of int8 values within +-7, in place, by INT4 ones and a Cast to their old names.

    Args:
        model: opset and IR version are raised where they are older than INT4.
        names: of the initializers.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.name in names:
            wide, small = tensor.name, f"{tensor.name}4"
            packed = pack(numpy_helper.to_array(tensor))
            tensor.CopyFrom(
                TensorProto(name=small, data_type=TensorProto.INT4, dims=tensor.dims, raw_data=packed.tobytes())
            )
            casts.append(helper.make_node("Cast", [small], [wide], name=f"{wide}:widened", to=TensorProto.INT8))
    if not casts:
        return
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.ir_version = max(model.ir_version, INT4_IR)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, INT4_OPSET)
