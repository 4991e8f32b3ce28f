"""What each operator of a TFLite file executes: each one in a file of its own, counted like any other.

The interpreter offers no hook between two operators of a delegate, and XNNPACK takes all of them at once. An operator
alone gets the same kernel, so what it costs is what its file costs, less what a call of the interpreter and its
delegate costs: a file with the first operator twice, less one with it once, is that operator without the call.

The other way, differences between files that end one operator later each, was measured and rejected: it needs as many
files and runs half of the network in each, its sum is the whole file's by construction, and its figures are the same
(ResNet-8, int8 and float32, Cortex-A53 and A76: 332 instructions apart at most, where operators have 200 to
1,320,000). Here the sum proves something: it is the whole file's only where the runtime fuses nothing and picks the
same kernels. Caches are those of an operator that has them for itself, so misses are not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeport.devices.counting import Counts, count
from edgeport.devices.device import Device
from edgeport.errors import ConfigError
from edgeport.quant import tflite_file

TOLERANCE_PERCENT = 1.0  # of the sum of the operators; what is more, fusion or another kernel has moved
_PROCESS_BYTES = 64 << 20  # of files that one process loads


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A file's instructions, operator by operator.

    Attributes:
        whole: one inference of the file.
        call: what the interpreter's call costs, whatever it computes.
        operators: each operator without the call, in execution order.
    """

    whole: Counts
    call: Counts
    operators: tuple[Counts, ...]

    @property
    def deviation_percent(self) -> float:
        """How far the sum of operators and call is from the whole, in percent of the whole."""
        total = self.call.instructions + sum(counts.instructions for counts in self.operators)
        return 100 * (total / self.whole.instructions - 1)

    @property
    def holds(self) -> bool:
        """Whether the sum is the whole, within `TOLERANCE_PERCENT`."""
        return abs(self.deviation_percent) <= TOLERANCE_PERCENT


def break_down(path: Path, device: Device) -> Breakdown:
    """Count a .tflite and each of its operators.

    Args:
        path: the file, with one subgraph.
        device: an emulated processor.

    Raises:
        ConfigError: the file has several subgraphs (control flow) or no operator.
        MissingPackageError: what counting needs is not installed.
        StageError: an operator does not run alone, the guest crashes or hangs, the disk is full.
    """
    with TemporaryDirectory(prefix="edgeport-") as folder:
        places = write_operators(path, Path(folder))
        found = [counts for some in _batches([path, *places]) for counts in count(some, device).counts]
    whole, twice, alone = found[0], found[1], found[2:]
    call = less(alone[0], less(twice, alone[0]))
    return Breakdown(whole=whole, call=call, operators=tuple(less(counts, call) for counts in alone))


def less(counts: Counts, other: Counts) -> Counts:
    """Return the difference of two counts, without misses; nothing falls below 0."""
    return Counts(
        instructions=max(0, counts.instructions - other.instructions),
        load_bytes=max(0, counts.load_bytes - other.load_bytes),
        store_bytes=max(0, counts.store_bytes - other.store_bytes),
        classes={name: max(0, value - other.classes[name]) for name, value in counts.classes.items()},
    )


def write_operators(path: Path, folder: Path) -> tuple[Path, ...]:
    """Write each operator of a TFLite file into a file of its own.

    Its activations are that file's inputs, and its constants come along.

    Returns:
        A file with the first operator twice, then a file an operator, in execution order.

    Raises:
        ConfigError: the file has several subgraphs (control flow) or no operator.
    """
    model = tflite_file.read(path.read_bytes())
    operators = list(model.subgraphs[tflite_file.MAIN].operators or ())
    if len(model.subgraphs) != 1 or not operators:
        what = f"{len(model.subgraphs)} subgraphs" if operators else "no operator"
        raise ConfigError(f"'{path}' has {what}; operators are counted one by one in files of one graph")
    wanted = [("twice", [operators[0], operators[0]])]
    wanted += [(f"{index:04d}", [operator]) for index, operator in enumerate(operators)]
    places = []
    for name, kept in wanted:
        places.append(folder / f"{name}.tflite")
        places[-1].write_bytes(_file_of(model, kept))
    return tuple(places)


def _file_of(model: Any, operators: Sequence[Any]) -> bytes:
    """Return the bytes of a file of one operator; given twice, its second copy writes to tensors of its own."""
    changed, graph = copy(model), copy(model.subgraphs[tflite_file.MAIN])
    operator, *others = operators
    read = [int(index) for index in operator.inputs if index >= 0]
    tensors = [tensor if index in read else _empty(tensor) for index, tensor in enumerate(graph.tensors)]
    graph.operators, graph.outputs = [operator], [int(index) for index in operator.outputs]
    for _ in others:
        again = copy(operator)
        again.outputs = list(range(len(tensors), len(tensors) + len(operator.outputs)))
        tensors += [tensors[index] for index in operator.outputs]
        graph.operators, graph.outputs = [*graph.operators, again], [*graph.outputs, *again.outputs]
    graph.tensors = tensors
    graph.inputs = [index for index in dict.fromkeys(read) if not _is_constant(model, tensors[index])]
    changed.subgraphs, changed.signatureDefs = [graph], None
    return tflite_file.write(changed)


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _empty(tensor: Any) -> Any:
    emptied = copy(tensor)
    emptied.buffer = 0  # the schema's empty buffer
    return emptied


def _batches(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the paths in order, in groups of files that one process loads side by side."""
    groups: list[list[Path]] = [[]]
    size = 0
    for path in paths:
        size += path.stat().st_size
        if size > _PROCESS_BYTES and groups[-1]:
            groups.append([])
            size = path.stat().st_size
        groups[-1].append(path)
    return groups
