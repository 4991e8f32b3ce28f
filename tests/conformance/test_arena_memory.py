"""Memory planned from a TFLite file against what the interpreter's own arena spans."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.formats.tflite import read_arena_bytes

FILES = ("pretrainedResnet_quant.tflite", "pretrainedResnet.tflite", "ad01_int8.tflite", "ad01_fp32.tflite")


def interpreters_arena(path: Path) -> int:
    """Return the bytes between the first and the last byte of all tensors that the interpreter gave a place."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    without = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    running = interpreter.Interpreter(model_path=str(path), experimental_op_resolver_type=without)
    running.allocate_tensors()
    arrays: list[tuple[int, int]] = []
    for detail in running.get_tensor_details():
        try:
            array = running.tensor(detail["index"])()
        except ValueError:  # has no memory
            continue
        arrays.append((array.__array_interface__["data"][0], array.nbytes))
    inputs = running.tensor(running.get_input_details()[0]["index"])().__array_interface__["data"][0]
    # constants lie in the mapped file, far from the arena: what is within a plan's reach of the input belongs to it
    reach = 2 * read_arena_bytes(path, is_builtin=True)
    near = [(start, size) for start, size in arrays if abs(start - inputs) < reach]
    return max(start + size for start, size in near) - min(start for start, _ in near)


@pytest.mark.parametrize("name", FILES)
def test_plan_is_the_interpreters_own(shared_data: Path, name: str) -> None:
    path = next((shared_data / "mlperf-tiny").rglob(name))
    assert read_arena_bytes(path, is_builtin=True) == interpreters_arena(path)
    assert 0 < read_arena_bytes(path) <= read_arena_bytes(path, is_builtin=True)
