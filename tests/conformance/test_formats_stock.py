"""Every reader on files that the stock toolchains write: the same network must read the same in all three formats."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeport.formats import reader_of, summarize
from edgeport.formats.quality import check_quality

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = {"tflite": "tflite", "xml": "openvino", "onnx": "onnxruntime"}
# output height x width x channels x weights an output, of a 3 x 8 x 8 input
LAYER_MACS = {
    "stem": 8 * 8 * 8 * (3 * 3 * 3),
    "depthwise": 4 * 4 * 8 * (3 * 3),
    "pointwise": 4 * 4 * 16 * 8,
    "head": 10 * 16,
}
STEM_ELEMENTS = 3 * 8 * 8 + 8 * 8 * 8  # read and written
FLOAT_WEIGHT_BYTES = 4 * ((216 + 8) + (72 + 8) + (128 + 16) + (160 + 10))
# ResNet-20 (He et al. 2015, section 4.2) on 32 x 32: stem, six convolutions a stage of which the first of stages two
# and three has half the input channels, linear
RESNET20_MACS = (
    1024 * 16 * 27 + 6 * 1024 * 16 * 144 + (256 * 32 + 64 * 64 * 2) * 144 + 5 * (256 * 32 + 64 * 64 * 2) * 288
)
RESNET20_MACS += 640


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def write_tflite(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    litert_torch = pytest.importorskip("litert_torch", reason="needs edgeport[tflite]")
    wrapped = litert_torch.to_channel_last_io(network, args=[0]).eval()
    litert_torch.convert(wrapped, (example.permute(0, 2, 3, 1).contiguous(),)).export(str(path))


def write_openvino(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its conversion calls home otherwise
    openvino = pytest.importorskip("openvino", reason="needs edgeport[openvino]")
    model = openvino.convert_model(network, example_input=example, input=[list(example.shape)])
    openvino.save_model(model, path, compress_to_fp16=False)


def write_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    pytest.importorskip("onnxruntime", reason="needs edgeport[onnxruntime]")
    program = torch.onnx.export(
        network, (example,), dynamo=True, input_names=["input"], external_data=False, verbose=False
    )
    assert program is not None
    program.save(str(path))


WRITERS = {"tflite": write_tflite, "xml": write_openvino, "onnx": write_onnx}


def quantize_tflite(source: Path, path: Path, samples: np.ndarray[Any, Any]) -> None:
    from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-untyped]  # ships no types

    quantization = quantizer.Quantizer(str(source))
    quantization.load_quantization_recipe(recipe.static_wi8_ai8())
    data = {"serving_default": [{"args_0": sample[None].transpose(0, 2, 3, 1).copy()} for sample in samples]}
    quantization.quantize(quantization.calibrate(data, num_threads=1)).export_model(str(path), overwrite=True)


def quantize_openvino(source: Path, path: Path, samples: np.ndarray[Any, Any]) -> None:
    import openvino  # type: ignore[import-untyped]  # ships no types

    nncf = pytest.importorskip("nncf", reason="nncf, OpenVINO's own quantizer, is no dependency of edgeport")
    model = nncf.quantize(openvino.Core().read_model(source), nncf.Dataset([sample[None] for sample in samples]))
    openvino.save_model(model, path, compress_to_fp16=False)


def quantize_onnx(source: Path, path: Path, samples: np.ndarray[Any, Any]) -> None:
    from onnxruntime import quantization  # type: ignore[import-untyped]  # ships no types

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the base class has no types
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray[Any, Any]] = iter(samples)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            sample = next(self.rest, None)
            return None if sample is None else {"input": sample[None]}

    quantization.quantize_static(
        str(source), str(path), Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
    )


QUANTIZERS = {"tflite": quantize_tflite, "xml": quantize_openvino, "onnx": quantize_onnx}


@pytest.fixture(scope="module", params=list(BACKENDS))
def float_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = Tiny()
    nn.init.uniform_(network.norm.weight, 0.5, 1.5)
    nn.init.uniform_(network.norm.bias, -0.5, 0.5)
    path = Path(tmp_path_factory.mktemp("tiny"), f"float.{request.param}")
    WRITERS[request.param](network.eval(), torch.randn(1, 3, 8, 8), path)
    return path


@pytest.fixture(scope="module")
def int8_file(float_file: Path) -> Path:
    path = float_file.with_stem("int8")
    samples = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    QUANTIZERS[path.suffix[1:]](float_file, path, samples)
    return path


def test_multiply_adds_of_each_layer_are_those_by_hand(float_file: Path) -> None:
    products = [row for row in reader_of(float_file).read_costs(float_file) if row.macs]
    assert [row.macs for row in products] == list(LAYER_MACS.values())
    assert [row.is_depthwise for row in products] == [False, True, False, False]
    assert {row.dtype for row in products} == {"float32"}


def test_quantized_file_has_the_same_multiply_adds_all_in_int8(float_file: Path, int8_file: Path) -> None:
    reader = reader_of(int8_file)
    assert summarize(reader.read_costs(float_file)).macs == {"float32": sum(LAYER_MACS.values())}
    assert summarize(reader.read_costs(int8_file)).macs == {"int8": sum(LAYER_MACS.values())}


def test_activations_count_in_the_format_they_are_kept_in(float_file: Path, int8_file: Path) -> None:
    reader = reader_of(int8_file)
    stems = [next(row for row in reader.read_costs(path) if row.macs) for path in (float_file, int8_file)]
    assert [row.activation_bytes for row in stems] == [4 * STEM_ELEMENTS, STEM_ELEMENTS]


def test_weight_bytes_are_the_parameters(float_file: Path, int8_file: Path) -> None:
    reader = reader_of(float_file)
    found = summarize(reader.read_costs(float_file)).weight_bytes
    assert 0 <= found - FLOAT_WEIGHT_BYTES <= 64  # axes and paddings are constants too
    layers = [row for row in reader.read_costs(int8_file) if row.macs]
    for row, weights, channels in zip(layers, (216, 72, 128, 160), (8, 8, 16, 10), strict=True):
        # a byte a weight; at most a bias, its scale and zero point, a weight scale and a zero point a channel
        assert weights <= row.weight_bytes <= weights + channels * (4 + 4 + 4 + 4 + 1) + 16


def test_each_layer_carries_its_module_path(float_file: Path) -> None:
    found = [row.provenance for row in reader_of(float_file).read_costs(float_file) if row.macs]
    # with the norm folded in, the convolution goes by the norm's path in ONNX and loses its name in OpenVINO
    stem = {".tflite": "stem", ".onnx": "norm", ".xml": None}[float_file.suffix]
    assert found == [stem, "depthwise", "pointwise", "head"]


def test_interface_is_that_of_the_network(float_file: Path, int8_file: Path) -> None:
    reader = reader_of(float_file)
    for path in (float_file, int8_file):
        found = reader.read_interface(path)
        assert [info.shape for info in found.inputs] == [(1, 8, 8, 3) if path.suffix == ".tflite" else (1, 3, 8, 8)]
        assert [info.shape for info in found.outputs] == [(1, 10)]
        is_integer = path.suffix == ".tflite" and path.stem == "int8"  # the one quantizer here whose edges are integers
        for info in (*found.inputs, *found.outputs):
            assert info.dtype == ("int8" if is_integer else "float32")
            assert (info.quantization is not None) == is_integer


def test_runtime_runs_every_layer_of_the_int8_file_on_integers(int8_file: Path) -> None:
    reader = reader_of(int8_file)
    costs, executed = reader.read_costs(int8_file), reader.executed_operators(int8_file)
    quality = check_quality(costs, executed, backend=BACKENDS[int8_file.suffix[1:]])
    assert quality.float_layers == ()
    assert (quality.macs_int8, quality.macs_other) == (sum(LAYER_MACS.values()), 0)


def test_runtime_runs_every_layer_of_the_float_file_in_float(float_file: Path) -> None:
    reader = reader_of(float_file)
    costs, executed = reader.read_costs(float_file), reader.executed_operators(float_file)
    quality = check_quality(costs, executed, backend=BACKENDS[float_file.suffix[1:]])
    assert len(quality.float_layers) == 4
    assert (quality.macs_int8, quality.macs_other) == (0, sum(LAYER_MACS.values()))
    assert "4 of 4 layers run in float (100.0 % of the multiply-adds)" in quality.findings[0]


@pytest.mark.slow
def test_resnet20_has_the_same_multiply_adds_in_every_format(shared_data: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(shared_data))
    try:
        import zoo  # type: ignore[import-not-found]  # lies in the shared data
    finally:
        sys.path.remove(str(shared_data))
    for suffix, write in WRITERS.items():
        path = tmp_path / f"resnet20.{suffix}"
        write(zoo.resnet20_jpeg(), torch.randn(1, 3, 32, 32), path)
        assert summarize(reader_of(path).read_costs(path)).macs == {"float32": RESNET20_MACS}, suffix
    assert RESNET20_MACS == 40_551_040


@pytest.mark.parametrize(
    ("stems", "macs"),
    [
        # 640 -> 128 x 4 -> 8 -> 128 x 4 -> 640 (MLPerf Tiny, anomaly detection)
        (("ad01_fp32", "ad01_int8"), 2 * 640 * 128 + 6 * 128 * 128 + 2 * 128 * 8),
        # MLPerf Tiny, image classification: stem and two convolutions on 32 x 32 x 16, then two stages of 3 x 3, 3 x 3
        # and a 1 x 1 shortcut that halve the size and double the channels, then linear
        (
            ("pretrainedResnet", "pretrainedResnet_quant"),
            1024 * 16 * (27 + 144 + 144) + 256 * 32 * (144 + 288 + 16) + 64 * 64 * (288 + 576 + 32) + 640,
        ),
    ],
)
def test_published_files_have_equal_multiply_adds(shared_data: Path, stems: tuple[str, str], macs: int) -> None:
    paths = [shared_data / "mlperf-tiny" / "reference" / f"{stem}.tflite" for stem in stems]
    found = [summarize(reader_of(path).read_costs(path)).macs for path in paths]
    assert found == [{"float32": macs}, {"int8": macs}]
