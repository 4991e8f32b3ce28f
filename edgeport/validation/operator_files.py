"""Some operators of a TFLite file as a file of their own, so that a runtime can run and a counter count them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from edgeport.quant import tflite_file


def write(model: Any, wanted: Iterable[Sequence[int]], folder: Path) -> list[Path]:
    """Write files of some operators each.

    What they read and do not compute is the file's input, what nobody among them reads is its output, and constants
    come along.

    Args:
        model: a file's `ModelT`.
        wanted: for each file the indices of its operators in execution order; one that is named again runs again and
            writes to tensors of its own.
        folder: where the files go.
    """
    places = []
    for indices in wanted:
        places.append(folder / f"{'-'.join(str(index) for index in indices)}.tflite")
        places[-1].write_bytes(_content(model, indices))
    return places


def pairs(model: Any) -> list[tuple[int, int]]:
    """Return (index of an operator, index of its reader) where only one operator reads all that the first computes."""
    graph = model.subgraphs[tflite_file.MAIN]
    readers = Counter(int(index) for operator in graph.operators for index in set(_listed(operator.inputs)))
    given_out = {int(index) for index in graph.outputs}
    found = []
    for first, operator in enumerate(graph.operators):
        made = set(_listed(operator.outputs))
        if made & given_out or any(readers[index] != 1 for index in made):
            continue
        read = [second for second, other in enumerate(graph.operators) if made & set(_listed(other.inputs))]
        found += [(first, read[0])] if len(read) == 1 else []
    return found


def _content(model: Any, indices: Sequence[int]) -> bytes:
    changed, graph = copy(model), copy(model.subgraphs[tflite_file.MAIN])
    tensors, operators = list(graph.tensors), []
    for place, index in enumerate(indices):
        operator = copy(graph.operators[index])
        if index in indices[:place]:
            outputs = _listed(operator.outputs)
            operator.outputs = list(range(len(tensors), len(tensors) + len(outputs)))
            tensors += [tensors[output] for output in outputs]
        operators.append(operator)
    read = list(dict.fromkeys(index for operator in operators for index in _listed(operator.inputs) if index >= 0))
    made = [index for operator in operators for index in _listed(operator.outputs)]
    graph.operators = operators
    graph.inputs = [index for index in read if index not in made and not _is_constant(model, tensors[index])]
    graph.outputs = [index for index in made if index not in read]
    graph.tensors = [tensor if index in read else _emptied(tensor) for index, tensor in enumerate(tensors)]
    changed.subgraphs, changed.signatureDefs = [graph], None
    return tflite_file.write(changed)


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _emptied(tensor: Any) -> Any:
    """Return a tensor without constant, so that the file does not hold constants which no operator of it reads."""
    emptied = copy(tensor)
    emptied.buffer = 0  # the schema's empty buffer
    return emptied


def _listed(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
