"""Single operators of a file as files of their own: what they hold, and that the runtime computes the same in them."""

from __future__ import annotations

from pathlib import Path

import counting_case
import numpy as np
import pytest

from edgeport.devices import host
from edgeport.errors import ConfigError
from edgeport.formats.tflite import read_costs, read_interface
from edgeport.quant import tflite_file
from edgeport.validation import operator_counts, operator_files

pytest.importorskip("ai_edge_litert", reason="needs edgeport[tflite]")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return counting_case.write("float32", tmp_path_factory.mktemp("network"))


def test_operators_in_a_row_give_the_outputs_of_the_whole(network: Path, tmp_path: Path) -> None:
    model = tflite_file.read(network.read_bytes())
    values = np.random.default_rng(0).standard_normal((2, 16, 16, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    whole = host.run(network, [tmp_path / "x.npy"]).outputs[0]
    for path in operator_files.write(model, [[0], [1], [2], [3]], tmp_path):
        values = host.run(path, [tmp_path / "x.npy"]).outputs[0]
        np.save(tmp_path / "x.npy", values)
    np.testing.assert_allclose(values, whole, rtol=1e-5)  # float sums of a padded and an unpadded convolution


def test_each_file_holds_its_own_constants_only(network: Path, tmp_path: Path) -> None:
    model = tflite_file.read(network.read_bytes())
    files = operator_files.write(model, [[0], [1], [2], [3], [1, 3]], tmp_path)
    kinds = [[cost.kind for cost in read_costs(path)] for path in files]
    assert kinds == [["PAD"], ["CONV_2D"], ["RESHAPE"], ["FULLY_CONNECTED"], ["CONV_2D", "FULLY_CONNECTED"]]
    sizes = [path.stat().st_size for path in files]
    assert sizes[3] > 4 * 10 * 1024 > sizes[1] > 4 * 16 * 72 > sizes[0]
    assert sum(sizes[:4]) < network.stat().st_size * 1.5
    assert [info.shape for info in read_interface(files[1]).inputs] == [(1, 18, 18, 8)]
    assert [info.shape for info in read_interface(files[1]).outputs] == [(1, 8, 8, 16)]


def test_operator_that_is_named_twice_runs_twice(network: Path, tmp_path: Path) -> None:
    (path,) = operator_files.write(tflite_file.read(network.read_bytes()), [[1, 1]], tmp_path)
    assert [cost.kind for cost in read_costs(path)] == ["CONV_2D", "CONV_2D"]
    assert len(read_interface(path).inputs) == 1
    np.save(tmp_path / "x.npy", np.ones((1, 18, 18, 8), np.float32))
    first, second = host.run(path, [tmp_path / "x.npy"]).outputs
    assert np.array_equal(first, second)


def test_pairs_are_operators_that_only_one_other_reads(network: Path) -> None:
    model = tflite_file.read(network.read_bytes())
    assert operator_files.pairs(model) == [(0, 1), (1, 2), (2, 3)]
    graph = model.subgraphs[0]
    graph.outputs = [*graph.outputs, graph.operators[1].outputs[0]]  # the convolution is an output as well
    assert operator_files.pairs(model) == [(0, 1), (2, 3)]
    graph.operators[3].inputs[0] = graph.operators[1].outputs[0]  # nobody reads the flat copy
    assert operator_files.pairs(model) == [(0, 1)]


def test_several_graphs_are_refused(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tflite_file.read(network.read_bytes())
    model.subgraphs = [model.subgraphs[0], model.subgraphs[0]]
    (tmp_path / "two.tflite").write_bytes(tflite_file.write(model))
    with pytest.raises(ConfigError, match="has 2 subgraphs; operators are counted one by one in files of one graph"):
        operator_counts.break_down(tmp_path / "two.tflite", host.HOST)
