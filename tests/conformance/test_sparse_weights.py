"""TFLite files without the zeros of their weights, in the real runtime: smaller, and the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering_case import profile
from torch import nn

pytest.importorskip("litert_torch", reason="needs pip install 'edgeport[tflite]'")

from edgeport.backends import backend, tflite  # after the skip
from edgeport.devices.host import run_together
from edgeport.formats.tflite import executed_operators, read_costs
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.network import Network
from edgeport.quant.tflite_file import constant, operators, read, run_keeping_tensors, tensor_name
from edgeport.stages.lower import lower
from edgeport.stages.trace import Trace
from edgeport.stages.zeros import NOTHING, choose_zeros
from edgeport.store import Store
from edgeport.types import Artifact


class Separable(nn.Sequential):
    """What XNNPACK's sparse chains consist of, and a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6(), nn.Conv2d(16, 64, 1), nn.ReLU6(),
            nn.Conv2d(64, 64, 3, 2, 1, groups=64), nn.ReLU6(), nn.Conv2d(64, 300, 1), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(300, 10),
        )  # fmt: skip


def graph(share: float) -> FloatGraph:
    """Return the network with that share of zeros in its 1x1 convolutions and its linear layer."""
    torch.manual_seed(0)
    module = Separable().eval()
    with torch.no_grad():
        for layer in (module[4], module[8], module[12]):
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            weight.mul_(torch.rand_like(weight) >= share)
    network = Network(name="net", module=module, example_inputs=None, fingerprint="")
    return FloatGraph.from_model(Trace()(network, (torch.randn(1, 3, 16, 16),))[0])


def written(share: float, folder: Path) -> tuple[Artifact, Artifact]:
    """Write the dense and the sparse file, each with its bindings."""
    network = graph(share)
    for name in ("dense", "sparse"):
        (folder / name).mkdir()
    dense = tflite.lower_float(network, profile("tflite"), folder / "dense" / "model.tflite")
    sparse = tflite.lower_sparse(network, dense, folder / "sparse" / "model.tflite")
    for artifact in (dense, sparse):
        artifact.path.with_name("io.json").write_text(json.dumps(tflite.bindings(network, artifact.path)))
    return dense, sparse


def test_answers_stay_and_the_file_shrinks(tmp_path: Path) -> None:
    dense, sparse = written(0.9, tmp_path)
    np.save(tmp_path / "in.npy", np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32))
    theirs, ours = run_together((dense.path, sparse.path), (tmp_path / "in.npy",))
    # sparse kernels add in another order where the processor has them; of few hundred terms, float32 loses 1e-6
    assert np.allclose(ours.outputs[0], theirs.outputs[0], atol=1e-5 * np.abs(theirs.outputs[0]).max())
    assert sparse.notes == ("weights of 3 layers are stored without their zeros",)
    assert sparse.size_bytes < 0.4 * dense.size_bytes  # 0.1 * (4 + 1 or 2) of 4 bytes a weight, and the rest


def test_the_interpreters_own_kernels_give_the_same_answers(tmp_path: Path) -> None:
    dense, sparse = (file.path.read_bytes() for file in written(0.9, tmp_path))
    sample = [np.random.default_rng(0).standard_normal((1, 16, 16, 3)).astype(np.float32)]
    results = []
    for content in (dense, sparse):
        model = read(content)
        last = int(model.subgraphs[0].outputs[0])
        results.append(run_keeping_tensors(content, [sample])[0][last])
    assert np.array_equal(results[0], results[1])


def test_stored_weights_are_the_dense_ones(tmp_path: Path) -> None:
    dense, sparse = (read(file.path.read_bytes()) for file in written(0.9, tmp_path))
    weights = {
        tensor_name(dense, op.inputs[1]): constant(dense, op.inputs[1]) for op in operators(dense) if op.inputs[1:]
    }
    expanded = [op for op in operators(sparse) if op.kind == "DENSIFY"]
    assert len(expanded) == 3
    for op in expanded:
        found, expected = constant(sparse, op.inputs[0]), weights[tensor_name(sparse, op.outputs[0])]
        assert found is not None
        assert expected is not None
        assert np.array_equal(found, expected)


def test_costs_count_stored_bytes_and_the_same_layers(tmp_path: Path) -> None:
    dense, sparse = written(0.9, tmp_path)
    ours, theirs = read_costs(sparse.path), read_costs(dense.path)
    assert [(row.name, row.kind, row.macs, row.dtype) for row in ours] == [
        (row.name, row.kind, row.macs, row.dtype) for row in theirs
    ]
    layer = next(index for index, row in enumerate(theirs) if row.weight_bytes > 4 * 64 * 300)
    nonzero = int((graph(0.9).module.get_parameter("8.weight") != 0).sum())
    # values, a byte an index (64 columns), two bytes a segment (more than 255 values), biases
    assert ours[layer].weight_bytes == nonzero * (4 + 1) + 2 * 301 + 4 * 300
    assert sum(operator.kind == "DENSIFY" for operator in executed_operators(sparse.path)) == 3


def test_dense_weights_stay_as_they_are(tmp_path: Path) -> None:
    dense, sparse = written(0.0, tmp_path)
    assert sparse.path.read_bytes() == dense.path.read_bytes()
    assert not sparse.notes


@pytest.mark.parametrize(("share", "is_sparse"), [(0.9, True), (0.0, False)])
def test_build_ships_the_file_without_zeros_where_it_is_better(share: float, is_sparse: bool, tmp_path: Path) -> None:
    store, network, target = Store(tmp_path / "store"), graph(share), profile("tflite")
    dense = lower(store, backend("tflite"), target, lambda: network, source_key="a")
    sparse = lower(
        store, backend("tflite"), target, lambda: network, source_key="a", float_file=dense, precision="float32"
    )
    assert sparse.key != dense.key
    found = choose_zeros(
        store,
        dense,
        sparse,
        target,
        lambda: [np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)],
        origin="modelled",
    )
    figures = found.chosen.get("zeros")
    if is_sparse:
        assert isinstance(figures, dict)
        assert figures["error"] < 1e-5
        assert found.artifact.path == (sparse if figures["kept"] else dense).artifact.path  # this machine may be busy
        again = choose_zeros(store, dense, sparse, target, lambda: [], origin="modelled")
        assert (again.chosen, again.chosen_notes) == (found.chosen, found.chosen_notes)
    else:
        assert (found.artifact.path, found.chosen_notes) == (dense.artifact.path, (NOTHING,))
