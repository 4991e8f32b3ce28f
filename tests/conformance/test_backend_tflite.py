"""The TFLite backend on real converters and the real runtime."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from edgeport.graph.float_graph import FloatGraph
    from edgeport.types import Artifact

pytest.importorskip("litert_converter", reason="needs pip install 'edgeport[tflite]'")

from edgeport.backends import tflite  # after the skip
from edgeport.errors import LoweringError
from edgeport.profile import Int8Scheme, TargetProfile
from edgeport.quant.scheme import Scheme
from edgeport.quant.tflite_file import constant, is_float, operators, read, tensor_name
from edgeport.quant.tflite_weights import POSITIONS

PROFILE = TargetProfile(name="test", description="test", backend="tflite", isa="any")
EDGES = ("QUANTIZE", "DEQUANTIZE")
TINY = 3  # the channel of TwoWay.picture whose weights are far smaller than its bias


class TwoWay(torch.nn.Module):
    """A picture and a vector in; a vector and a picture out."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.vector = torch.nn.Linear(5, 8)
        self.head = torch.nn.Linear(8, 4)
        self.map = torch.nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            assert self.picture.bias is not None
            self.picture.weight[TINY] = 1e-12
            self.picture.bias[TINY] = 7.0

    def forward(self, picture: Any, vector: Any) -> tuple[Any, Any]:
        y = torch.relu(self.picture(picture)) + torch.relu(self.vector(vector))[:, :, None, None]
        return self.head(y.mean((2, 3))), self.map(y)


class SqueezeExcite(torch.nn.Module):
    """Hard swish, squeeze and excite, depthwise convolution, softmax: what MobileNetV3 is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = torch.nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.reduce = torch.nn.Conv2d(16, 8, 1)
        self.expand = torch.nn.Conv2d(8, 16, 1)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = functional.hardswish(self.stem(x))
        y = functional.hardswish(self.depthwise(x))
        y = y * functional.hardsigmoid(self.expand(torch.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return functional.softmax(self.head((x + y).mean((2, 3))), -1)


class Inner(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.special.i0e(x) if x.shape[-1] == 4 else torch.linalg.inv(x)


class Inexpressible(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.inner = Inner()

    def forward(self, x: Any) -> Any:
        return self.inner(torch.relu(self.first(x)) + 1.0)


class Inverse(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Any) -> Any:
        return self.inner(x + torch.eye(3))


def graph_of(module: Any, shapes: list[tuple[int, ...]], folder: Path, samples: int = 8) -> FloatGraph:
    """Trace, calibrate with seeded normal samples, fold."""
    from edgeport.dataset import open_dataset
    from edgeport.graph.float_graph import FloatGraph
    from edgeport.graph.network import Network
    from edgeport.stages.calibrate import Calibrate
    from edgeport.stages.context import Context
    from edgeport.stages.trace import Trace

    random = np.random.default_rng(0)
    arrays = [random.standard_normal((samples, *shape)).astype(np.float32) for shape in shapes]
    names = ["x"] if len(arrays) == 1 else [f"x{index}" for index in range(len(arrays))]
    np.savez(folder / "data.npz", **dict(zip(names, arrays, strict=True)))  # type: ignore[arg-type]  # numpy's stub
    example = tuple(torch.from_numpy(array[:1].copy()) for array in arrays)
    model, _ = Trace()(Network(name="net", module=module.eval(), example_inputs=None, fingerprint=""), example)
    model, _ = Calibrate()(model, Context(calibrate=open_dataset(str(folder / "data.npz"))))
    return FloatGraph.from_model(model)


@dataclass(frozen=True)
class Lowered:
    graph: FloatGraph
    float_file: Artifact
    int8_file: Artifact

    @property
    def model(self) -> Any:
        return read(self.int8_file.path.read_bytes())


def lower(module: Any, shapes: list[tuple[int, ...]], folder: Path) -> Lowered:
    graph = graph_of(module, shapes, folder)
    float_file = tflite.lower_float(graph, PROFILE, folder / "float.tflite")
    return Lowered(graph, float_file, tflite.lower_int8(graph, Scheme.of(PROFILE), float_file, folder / "int8.tflite"))


def lower_two_way(folder: Path) -> Lowered:
    torch.manual_seed(0)
    return lower(TwoWay(), [(3, 16, 16), (5,)], folder)


@pytest.fixture(scope="session")
def two_way(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lower_two_way(tmp_path_factory.mktemp("two_way"))


@pytest.fixture(scope="session")
def squeeze_excite(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    torch.manual_seed(0)
    return lower(SqueezeExcite(), [(3, 32, 32)], tmp_path_factory.mktemp("squeeze_excite"))


@pytest.fixture(scope="session")
def resnet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    sys.path.insert(0, str(shared_data))
    try:
        import zoo  # type: ignore[import-not-found]  # lies beside the data
    finally:
        sys.path.remove(str(shared_data))
    return lower(zoo.resnet20_jpeg(), [(3, 32, 32)], tmp_path_factory.mktemp("resnet"))


def run(lowered: Lowered, artifact: Artifact, sample: tuple[Any, ...]) -> list[np.ndarray]:
    """Return the outputs in the network's order and layout, by way of `bindings`."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]  # ships no types

    io: Any = tflite.bindings(lowered.graph, artifact.path)
    runner = Interpreter(str(artifact.path), num_threads=1).get_signature_runner()
    details = {**runner.get_input_details(), **runner.get_output_details()}
    fed = {}
    for entry, value in zip(io["inputs"], sample, strict=True):
        array = np.ascontiguousarray(np.moveaxis(value.numpy(), 1, -1) if entry["channels_last"] else value.numpy())
        scale, zero = details[entry["tensor"]]["quantization"]
        fed[entry["tensor"]] = np.clip(np.rint(array / scale + zero), -128, 127).astype(np.int8) if scale else array
    held = runner(**fed)
    outputs = []
    for entry in io["outputs"]:
        scale, zero = details[entry["tensor"]]["quantization"]
        array = (held[entry["tensor"]].astype(np.float32) - zero) * scale if scale else held[entry["tensor"]]
        outputs.append(np.moveaxis(array, -1, 1) if entry["channels_last"] else array)
    return outputs


def kinds(model: Any) -> list[str]:
    return [op.kind for op in operators(model)]


@pytest.mark.parametrize("name", ["two_way", "squeeze_excite", "resnet"])
def test_int8_file_is_integer_between_one_quantize_and_one_dequantize_a_port(
    name: str, request: pytest.FixtureRequest
) -> None:
    lowered: Lowered = request.getfixturevalue(name)
    found = operators(lowered.model)
    assert sum(op.kind == "QUANTIZE" for op in found) == len(lowered.graph.inputs)
    assert sum(op.kind == "DEQUANTIZE" for op in found) == len(lowered.graph.outputs)
    assert not [op for op in found if op.kind not in EDGES and any(is_float(lowered.model, i) for i in op.outputs)]
    assert not [note for note in lowered.int8_file.notes if "float32" in note]


@pytest.mark.parametrize("name", ["two_way", "squeeze_excite", "resnet"])
def test_no_transpose_in_a_plain_convolutional_network(name: str, request: pytest.FixtureRequest) -> None:
    lowered: Lowered = request.getfixturevalue(name)
    assert "TRANSPOSE" not in kinds(read(lowered.float_file.path.read_bytes()))
    assert "TRANSPOSE" not in kinds(lowered.model)


def test_every_convolution_and_linear_layer_of_resnet_is_there(resnet: Lowered) -> None:
    found = kinds(resnet.model)
    # He et al. 2015, section 4.2: 6n + 2 layers; and two shortcuts whose strided slices are written as convolutions
    assert (found.count("CONV_2D"), found.count("FULLY_CONNECTED")) == (19 + 2, 1)
    assert resnet.float_file.size_bytes >= 3.3 * resnet.int8_file.size_bytes


@pytest.mark.parametrize("name", ["two_way", "squeeze_excite", "resnet"])
def test_ranges_in_the_file_are_the_calibrated_ones(name: str, request: pytest.FixtureRequest) -> None:
    lowered: Lowered = request.getfixturevalue(name)
    ranges = {lowered.graph.provenance[node]: ends for node, ends in lowered.graph.ranges.items()}
    fixed = {"SOFTMAX", "LOGISTIC"}  # the kernels ask for the scale 1/256
    same = {"PAD", "STRIDED_SLICE"}  # the kernels ask for the input's scale
    checked = 0
    for op in operators(lowered.model):
        key = tensor_name(lowered.model, op.outputs[0])
        if op.kind in fixed | same | {"DEQUANTIZE"} or key not in ranges:
            continue
        low, high = min(ranges[key][0], 0.0), max(ranges[key][1], 0.0)
        tensor = lowered.model.subgraphs[0].tensors[op.outputs[0]]
        assert tensor.quantization.scale[0] == pytest.approx((high - low) / 255, rel=1e-5)
        assert tensor.quantization.zeroPoint[0] == pytest.approx(-128 - low / ((high - low) / 255), abs=0.51)
        checked += 1
    assert checked >= 4


def test_float_outputs_equal_torch_in_the_networks_order(two_way: Lowered) -> None:
    torch.manual_seed(1)
    sample = (torch.randn(1, 3, 16, 16), torch.randn(1, 5))
    expected = two_way.graph.outputs_of(sample)
    for found, wanted in zip(run(two_way, two_way.float_file, sample), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_bindings_name_the_networks_inputs_and_layouts(two_way: Lowered) -> None:
    io: Any = tflite.bindings(two_way.graph, two_way.int8_file.path)
    assert [entry["name"] for entry in io["inputs"]] == ["picture", "vector"]
    assert [entry["channels_last"] for entry in io["inputs"]] == [True, False]
    assert [entry["name"] for entry in io["outputs"]] == [spec.name for spec in two_way.graph.outputs]
    assert [entry["channels_last"] for entry in io["outputs"]] == [False, True]


@pytest.mark.parametrize("name", ["two_way", "squeeze_excite"])
def test_int8_outputs_are_near_the_float_network(name: str, request: pytest.FixtureRequest) -> None:
    lowered: Lowered = request.getfixturevalue(name)
    expected = lowered.graph.outputs_of(lowered.graph.example_inputs)
    for found, wanted in zip(run(lowered, lowered.int8_file, lowered.graph.example_inputs), expected, strict=True):
        error = np.abs(found - wanted.numpy()).max()
        assert error <= 0.03 * float(wanted.abs().max())  # a few steps of 1/255 of the range, from as many layers


def test_a_channel_with_tiny_weights_keeps_its_bias(two_way: Lowered) -> None:
    model = two_way.model
    op = next(op for op in operators(model) if op.kind == "CONV_2D")
    bias = constant(model, op.inputs[2])
    assert bias is not None
    scale = model.subgraphs[0].tensors[op.inputs[2]].quantization.scale[TINY]
    assert bias[TINY] * scale == pytest.approx(7.0, rel=1e-6)
    assert np.abs(bias.astype(np.int64)).max() <= 2**30 + 1
    (note,) = [note for note in two_way.int8_file.notes if "biases fit into int32" in note]
    assert note.startswith("1 channel got a wider weight scale")
    assert note.endswith(": in picture/conv2d")


def test_weights_have_a_scale_an_output_channel(two_way: Lowered) -> None:
    model = two_way.model
    counts = [
        len(model.subgraphs[0].tensors[op.inputs[1]].quantization.scale)
        for op in operators(model)
        if op.kind in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert sorted(counts) == [2, 4, 8, 8]


def test_rounding_errors_of_a_channel_cancel(two_way: Lowered) -> None:
    floats = {
        tensor_name(model, op.inputs[POSITIONS[op.kind][1]]): constant(model, op.inputs[POSITIONS[op.kind][1]])
        for model in [read(two_way.float_file.path.read_bytes())]
        for op in operators(model)
        if op.kind in POSITIONS
    }
    model, seen = two_way.model, 0
    for op in operators(model):
        if op.kind in POSITIONS:
            index, dimension = op.inputs[POSITIONS[op.kind][1]], POSITIONS[op.kind][3]
            integers, weight = constant(model, index), floats[tensor_name(model, index)]
            assert integers is not None
            assert weight is not None
            scales = np.array(model.subgraphs[0].tensors[index].quantization.scale)
            errors = np.moveaxis(integers, dimension, -1) - np.moveaxis(weight, dimension, -1) / scales
            assert np.abs(errors.reshape(-1, len(scales)).sum(0)).max() <= 0.5 + 1e-3
            seen += 1
    assert seen >= 3


def test_seven_bits_keep_weights_within_63(two_way: Lowered, tmp_path: Path) -> None:
    profile = msgspec.structs.replace(PROFILE, int8=Int8Scheme(weight_bits=7))
    artifact = tflite.lower_int8(two_way.graph, Scheme.of(profile), two_way.float_file, tmp_path / "seven.tflite")
    model = read(artifact.path.read_bytes())
    for op in operators(model):
        if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
            weights = constant(model, op.inputs[1])
            assert weights is not None
            assert np.abs(weights.astype(int)).max() == 63


def test_int8_io_has_no_float_tensor(two_way: Lowered, tmp_path: Path) -> None:
    profile = msgspec.structs.replace(PROFILE, int8=Int8Scheme(io="int8"))
    artifact = tflite.lower_int8(two_way.graph, Scheme.of(profile), two_way.float_file, tmp_path / "io.tflite")
    model = read(artifact.path.read_bytes())
    assert not set(kinds(model)) & set(EDGES)
    assert not any(is_float(model, index) for index in range(len(model.subgraphs[0].tensors)))
    found = run(two_way, artifact, two_way.graph.example_inputs)
    for array, wanted in zip(found, two_way.graph.outputs_of(two_way.graph.example_inputs), strict=True):
        assert np.abs(array - wanted.numpy()).max() <= 0.03 * float(wanted.abs().max())


def test_tensors_are_named_by_provenance(resnet: Lowered) -> None:
    model = read(resnet.float_file.path.read_bytes())
    names = [tensor_name(model, index) for index in range(len(model.subgraphs[0].tensors))]
    assert len(set(names)) == len(names)
    for layer in ("conv1", "layer1.0.conv1", "layer3.2.conv2"):
        assert f"{layer}/conv2d;1" in names
        assert f"{layer}/conv2d;2" in names
    assert set(resnet.graph.provenance.values()) >= {name for name in names if ";" not in name}


def test_files_hold_no_path_of_this_machine(resnet: Lowered) -> None:
    for artifact in (resnet.float_file, resnet.int8_file):
        content = artifact.path.read_bytes()
        for text in (str(Path.home()), os.sep + "tmp" + os.sep, str(Path(__file__).parent), "site-packages", ".py"):
            assert text.encode() not in content


def test_another_process_writes_the_same_bytes_and_prints_nothing(two_way: Lowered, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys; from test_backend_tflite import lower_two_way;"
        f"lower_two_way(Path({str(tmp_path)!r}))"
    )
    here = str(Path(__file__).parent)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((here, root)), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("", "")
    for artifact in (two_way.float_file, two_way.int8_file):
        other = tmp_path / artifact.path.name
        assert _hash(other) == _hash(artifact.path)


def test_lowering_twice_gives_the_same_bytes_and_silence(
    two_way: Lowered, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    float_file = tflite.lower_float(two_way.graph, PROFILE, tmp_path / "float.tflite")
    int8_file = tflite.lower_int8(two_way.graph, Scheme.of(PROFILE), float_file, tmp_path / "int8.tflite")
    assert _hash(float_file.path) == _hash(two_way.float_file.path)
    assert _hash(int8_file.path) == _hash(two_way.int8_file.path)
    assert capfd.readouterr() == ("", "")


def test_an_inexpressible_operator_is_named_with_its_layer(tmp_path: Path) -> None:
    graph = graph_of(Inexpressible(), [(4, 4)], tmp_path)
    with pytest.raises(LoweringError, match=r"'special_i0e' of layer 'inner/special_i0e'") as caught:
        tflite.lower_float(graph, PROFILE, tmp_path / "float.tflite")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "float.tflite").exists()


def test_an_operator_that_the_converter_does_not_name_is_found(tmp_path: Path) -> None:
    graph = graph_of(Inverse(), [(3, 3)], tmp_path)
    with pytest.raises(LoweringError, match=r"'linalg_inv' of layer 'inner/linalg_inv'"):
        tflite.lower_float(graph, PROFILE, tmp_path / "float.tflite")


def test_int8_without_calibration_is_refused(two_way: Lowered, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(LoweringError, match="calibrated"):
        tflite.lower_int8(
            replace(two_way.graph, ranges={}), Scheme.of(PROFILE), two_way.float_file, tmp_path / "int8.tflite"
        )


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
