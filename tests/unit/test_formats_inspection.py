from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgeport.errors import ConfigError
from edgeport.report.inspection import Inspection, inspection, render_inspection

onnx = pytest.importorskip("onnx", reason="needs edgeport[onnxruntime]")


@pytest.fixture
def found(tmp_path: Path) -> Inspection:
    """Return the inspection of 3 -> 8 channels 3 x 3, ReLU, 8 -> 2 channels 1 x 1 on 6 x 6."""
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "v"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w"], ["[y]"]),
    ]
    constants = {"v": np.ones((8, 3, 3, 3), np.float32), "w": np.ones((2, 8, 1, 1), np.float32)}
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [onnx.helper.make_tensor_value_info("[y]", onnx.TensorProto.FLOAT, ["batch", 2, 6, 6])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return inspection(path)


def shown(found: Inspection) -> str:
    stream = io.StringIO()
    render_inspection(found, Console(file=stream, width=160, color_system=None))
    return stream.getvalue()


def test_inspection_survives_json_unchanged(found: Inspection) -> None:
    assert json.loads(json.dumps(found)) == found


def test_inspection_has_interface_operators_and_totals(found: Inspection) -> None:
    macs = 36 * 8 * 27 + 36 * 2 * 8
    assert found["format"] == "onnx"
    assert found["size_bytes"] == Path(found["file"]).stat().st_size
    assert found["inputs"] == [{"name": "x", "shape": [-1, 3, 6, 6], "dtype": "float32", "quantization": None}]
    assert [row["kind"] for row in found["operators"]] == ["Conv", "Relu", "Conv"]
    totals = found["totals"]
    assert (totals["operators"], totals["macs"], totals["macs_by_dtype"]) == (3, macs, {"float32": macs})
    assert totals["weight_bytes"] == 4 * (216 + 16)
    assert totals["activation_bytes"] == 4 * 36 * (3 + 8 + 8 + 2)
    assert totals["bytes_moved"] == totals["weight_bytes"] + totals["activation_bytes"]
    assert totals["counts"] == {"Conv": 2, "Relu": 1}


def test_rendering_groups_operators_and_adds_up(found: Inspection) -> None:
    lines = [line.split() for line in shown(found).splitlines()]
    assert ["input", "x", "?", "x", "3", "x", "6", "x", "6", "float32", "-"] in lines
    assert ["output", "[y]", "?", "x", "2", "x", "6", "x", "6", "float32", "-"] in lines  # no markup
    assert ["Conv", "float32", "float32", "2", "8,352", "928", "3,024"] in lines
    assert ["Relu", "float32", "1", "0", "0", "0"] in lines
    assert ["total", "3", "8,352", "928", "3,024"] in lines
    assert ["multiply-adds:", "8,352", "(float32", "100.0", "%)"] in lines


def test_rendering_shows_scales(found: Inspection) -> None:
    found["inputs"][0]["quantization"] = {"scale": 0.0078125, "zero_point": -1}
    assert "scale 0.0078125, zero point -1" in shown(found)


def test_unknown_format_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot tell the format"):
        inspection(tmp_path / "net.pt")
