"""Files with 4-bit weights: smaller, integers in the runtime, and the answers of the same integers unpacked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lowering_case import float_graph, profile, samples

from edgeport.backends import NAMES, backend
from edgeport.devices import host
from edgeport.formats import reader_of
from edgeport.formats.quality import LAYERS
from edgeport.quant.scheme import Scheme
from edgeport.types import Artifact

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "litert_converter"}
NETWORKS = ("residual", "linear_only")


def lowered(name: str, runtime: str, folder: Path, bits: int) -> Artifact:
    pytest.importorskip(PACKAGES[runtime], reason=f"needs pip install 'edgeport[{runtime}]'")
    folder.mkdir()
    graph, module = float_graph(name), backend(runtime)
    floating = module.lower_float(graph, profile(runtime), folder / f"float{module.suffix}")
    scheme = Scheme(weight_bits=bits)  # type: ignore[arg-type]  # 4 or 7
    written = module.lower_int8(graph, scheme, floating, folder / f"model{module.suffix}")
    (folder / "io.json").write_text(json.dumps(module.bindings(graph, written.path)))
    return written


def weight_bytes(artifact: Artifact) -> int:
    return sum(cost.weight_bytes for cost in reader_of(artifact.path).read_costs(artifact.path) if cost.macs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("runtime", NAMES)
def test_layers_run_on_integers_and_the_report_says_what_the_file_holds(
    runtime: str, name: str, tmp_path: Path
) -> None:
    found = lowered(name, runtime, tmp_path / "four", 4)
    executed = reader_of(found.path).executed_operators(found.path)
    layers = [operator for operator in executed if operator.kind in LAYERS[runtime]]
    assert {operator.dtype for operator in layers} == {"int8"}
    assert any("layers have 4-bit weights" in note for note in found.notes)
    is_whole = runtime == "tflite" and name == "residual"
    assert any("keep a byte a weight" in note for note in found.notes) == is_whole
    wide = lowered(name, runtime, tmp_path / "seven", 7)
    assert not any("4-bit" in note for note in wide.notes)
    assert weight_bytes(found) < weight_bytes(wide) or is_whole


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("runtime", NAMES)
def test_packed_file_answers_as_the_simulated_network(runtime: str, name: str, tmp_path: Path) -> None:
    import torch

    from edgeport.quant.simulate import Simulator

    found = lowered(name, runtime, tmp_path / "four", 4)
    (array,) = samples(name, seed=1)
    np.save(tmp_path / "in.npy", array)
    outputs = host.run(found.path, [tmp_path / "in.npy"]).outputs[0]
    graph = float_graph(name)
    ranges = {graph.provenance[node]: ends for node, ends in graph.ranges.items()}

    def simulated(bits: int) -> np.ndarray:
        simulator = Simulator(graph.module, graph.example_inputs, ranges, weight_bits=bits)  # type: ignore[arg-type]  # as above
        return np.concatenate([simulator.run([torch.from_numpy(row[None])])[0].numpy() for row in array])

    own, wide = simulated(4), simulated(8)
    # found 0.4 to 0.7: files do not round what leaves the network to int8, as the simulation does
    assert np.linalg.norm(outputs - own) < 0.8 * np.linalg.norm(outputs - wide)
