from __future__ import annotations

import pytest

from edgeport.formats import ExecutedOp
from edgeport.formats.quality import check_quality
from edgeport.types import OpCost


def row(name: str, dtype: str, macs: int = 100, provenance: str | None = None) -> OpCost:
    return OpCost(name=name, kind="Conv", dtype=dtype, macs=macs, provenance=provenance)


def runs(name: str, kind: str, dtype: str, *layers: str, provenance: str | None = None) -> ExecutedOp:
    return ExecutedOp(name=name, kind=kind, dtype=dtype, layers=layers, provenance=provenance)


def test_integer_file_has_no_findings() -> None:
    costs = [row("a", "int8"), row("b", "int8", 50)]
    executed = [runs("a", "QLinearConv", "int8"), runs("q", "QLinearAdd", "int8"), runs("b", "QGemm", "int8")]
    quality = check_quality(costs, executed, backend="onnxruntime")
    assert (quality.transposes, quality.macs_int8, quality.macs_other) == (0, 150, 0)
    assert (quality.float_layers, quality.findings) == ((), ())


def test_layer_that_is_stored_in_int8_but_runs_in_float_is_found() -> None:
    costs = [row("a", "int8", 300), row("b", "int8", 100)]
    executed = [runs("a", "QLinearConv", "int8"), runs("b", "Conv", "float32")]
    quality = check_quality(costs, executed, backend="onnxruntime")
    assert quality.float_layers == ("b",)
    assert (quality.macs_int8, quality.macs_other) == (300, 100)
    assert quality.findings == ("1 of 2 layers run in float (25.0 % of the multiply-adds): b",)


def test_float_layer_goes_by_its_module_path() -> None:
    costs = [row("x/y;1", "int8-weights", provenance="layer1.0.conv1")]
    executed = [runs("x/y;1", "CONV_2D", "int8-weights", "x/y;1", provenance="layer1.0.conv1")]
    assert check_quality(costs, executed, backend="tflite").float_layers == ("layer1.0.conv1",)


def test_renamed_layers_of_a_compiled_model_are_matched() -> None:
    costs = [
        row("Multiply_1", "int8", 1),
        row("block/conv", "int8", 10, provenance="block"),
        row("head/MatMul", "int8", 100),
    ]
    executed = [
        runs("Multiply_1", "Convolution", "int8", "Multiply_1", "relu/fq"),
        runs("fused", "Convolution", "bfloat16", "block/bias", provenance="block"),
        runs("head/Add", "FullyConnected", "float32", "head/Add"),
        runs("reorder", "Reorder", "float32"),
    ]
    quality = check_quality(costs, executed, backend="openvino")
    assert quality.float_layers == ("block", "head/MatMul")
    assert (quality.macs_int8, quality.macs_other) == (1, 110)


def test_long_lists_are_cut_in_the_sentence_only() -> None:
    costs = [row(f"l{index}", "float32") for index in range(5)]
    executed = [runs(f"l{index}", "FULLY_CONNECTED", "float32") for index in range(5)]
    quality = check_quality(costs, executed, backend="tflite")
    assert len(quality.float_layers) == 5
    assert quality.findings[0].endswith(": l0, l1, l2 and 2 more")


def test_long_names_keep_their_end_in_the_sentence() -> None:
    name = "wrapper;" * 20 + "17"
    quality = check_quality([row(name, "float32")], [runs(name, "CONV_2D", "float32")], backend="tflite")
    assert quality.float_layers == (name,)
    assert quality.findings[0].endswith(": ..." + name[-60:])


def test_float_layers_of_a_float_file_are_no_finding() -> None:
    executed = [runs("a", "CONV_2D", "float32"), runs("t", "TRANSPOSE", "float32"), runs("u", "TRANSPOSE", "float32")]
    quality = check_quality([row("a", "float32")], executed, backend="tflite", precision="float32")
    assert quality.float_layers == ("a",)
    assert quality.transposes == 2
    assert quality.findings == ("2 transposes between layouts left in the file",)


def test_unknown_backend_is_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="got 'coreml'"):
        check_quality([], [], backend="coreml")
