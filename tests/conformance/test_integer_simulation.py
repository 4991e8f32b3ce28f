"""Int8 files give what `IntegerSimulator` computes in their runtime's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering_case import float_graph, profile, samples

from edgeport.backends import NAMES, backend
from edgeport.devices import host
from edgeport.quant.integer_simulate import IntegerSimulator
from edgeport.quant.scheme import Scheme
from edgeport.types import WeightBits

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "litert_converter"}
BITS: WeightBits = 7  # exact on every processor
TOLERANCE = {"onnxruntime": 0.005, "openvino": 0.12, "tflite": 0.07}  # mean, in 255ths of what outputs span
# found 0.001, 0.084 and 0.047, of which TFLite's are outputs of 8 bits that were rounded to the next step


@pytest.mark.parametrize("name", ["residual", "linear_only", "pre_activation"])
@pytest.mark.parametrize("runtime", NAMES)
def test_a_file_answers_as_the_simulation_on_integers(runtime: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[runtime], reason=f"needs pip install 'edgeport[{runtime}]'")
    graph, module = float_graph(name), backend(runtime)
    floating = module.lower_float(graph, profile(runtime), tmp_path / f"float{module.suffix}")
    written = module.lower_int8(graph, Scheme(weight_bits=BITS), floating, tmp_path / f"model{module.suffix}")
    (tmp_path / "io.json").write_text(json.dumps(module.bindings(graph, written.path)))
    (array,) = samples(name, seed=1)
    np.save(tmp_path / "in.npy", array)
    outputs = host.run(written.path, [tmp_path / "in.npy"]).outputs[0]
    ranges = {graph.provenance[node]: ends for node, ends in graph.ranges.items()}
    exact = IntegerSimulator(graph.module, ranges, weight_bits=BITS, arithmetic=module.arithmetic)
    rows = [torch.from_numpy(row[None]) for row in array]
    found = np.concatenate([exact.run([row])[0].numpy() for row in rows])
    step = (outputs.max() - outputs.min()) / 255
    assert np.abs(outputs - found).mean() < TOLERANCE[runtime] * step
    if name == "linear_only":  # no rounding that runtimes do in a way of their own
        np.testing.assert_allclose(outputs, found, atol=1e-3 * step)
