"""What each operator of a TFLite file executes: each one in a file of its own, counted like any other.

The interpreter offers no hook between two operators of a delegate, and XNNPACK takes all of them at once. An operator
alone gets the same kernel, so what it costs is what its file costs, less what a call of the interpreter and its
delegate costs: a file with the first operator twice, less one with it once, is that operator without the call.

The sum of all operators and of one call must be the whole file. Where it is not, a runtime has fused operators: then
each operator that only one other reads is counted together with that one, and what the two save is taken off the one
with fewer multiply-adds. So a padding that XNNPACK computes within the next convolution costs next to nothing, as it
does in the whole file.

The other way, differences between files that end one operator later each, was measured and rejected: each of them runs
half of the network, their sum is the whole file's by construction and proves nothing, and a padding that is fused in
the next file is counted there as if it ran. Where nothing is fused the figures are the same: 332 instructions apart at
most (ResNet-8 of MLPerf Tiny, int8 and float32, Cortex-A53 and A76), where an operator has 200 to 1,320,000.

An operator alone has the caches for itself, so misses are not told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeport.devices.counting import Counts, count
from edgeport.devices.device import Device
from edgeport.errors import ConfigError
from edgeport.formats.tflite import read_costs
from edgeport.quant import tflite_file
from edgeport.validation import operator_files

TOLERANCE_PERCENT = 1.0  # of the whole file; a sum farther off is told as such
_FUSED_PERCENT = 0.1  # a sum farther off than that makes pairs be counted; unfused files are within 0.03 %
_SAVED_SHARE = 0.2  # of the operator with fewer multiply-adds; what a pair saves less than that is no fusion
_PROCESS_BYTES = 64 << 20  # of files that one process loads


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A file's instructions, operator by operator.

    Attributes:
        whole: one inference of the file.
        call: what the interpreter's call costs, whatever it computes.
        operators: each operator without the call, in execution order; of a fused one, what it adds to the other.
        fused: index of an operator -> index of the one that the runtime computes it with.
    """

    whole: Counts
    call: Counts
    operators: tuple[Counts, ...]
    fused: Mapping[int, int] = field(default_factory=dict)

    @property
    def deviation_percent(self) -> float:
        """How far the sum of operators and call is from the whole, in percent of the whole."""
        total = self.call.instructions + sum(counts.instructions for counts in self.operators)
        return 100 * (total / self.whole.instructions - 1)


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
    model = tflite_file.read(path.read_bytes())
    operators = list(model.subgraphs[tflite_file.MAIN].operators or ())
    if len(model.subgraphs) != 1 or not operators:
        what = f"{len(model.subgraphs)} subgraphs" if operators else "no operator"
        raise ConfigError(f"'{path}' has {what}; operators are counted one by one in files of one graph")
    with TemporaryDirectory(prefix="edgeport-") as folder:
        place = Path(folder)
        files = operator_files.write(model, [[0, 0], *([index] for index in range(len(operators)))], place)
        whole, twice, *alone = _counted([path, *files], device)
        call = less(alone[0], less(twice, alone[0]))
        found = Breakdown(whole=whole, call=call, operators=tuple(less(counts, call) for counts in alone))
        if abs(found.deviation_percent) > _FUSED_PERCENT:
            pairs = operator_files.pairs(model)
            together = _counted(operator_files.write(model, pairs, place), device) if pairs else []
            macs = [cost.macs for cost in read_costs(path)]
            found = fused(found, dict(zip(pairs, together, strict=True)), macs)
    return found


def fused(found: Breakdown, pairs: Mapping[tuple[int, int], Counts], macs: Sequence[int]) -> Breakdown:
    """Return a breakdown in which what two operators save together is taken off the one with fewer multiply-adds.

    Args:
        found: each operator as it is alone.
        pairs: (index, index of its only reader) -> counts of a file with both, with the call.
        macs: multiply-adds of each operator.
    """
    operators, into = list(found.operators), dict(found.fused)
    least = _FUSED_PERCENT / 100 * found.whole.instructions
    for (first, second), counts in pairs.items():
        both = less(counts, found.call)
        apart = operators[first].instructions + operators[second].instructions
        small, large = sorted((first, second), key=lambda index: (macs[index], operators[index].instructions))
        if apart - both.instructions > max(least, _SAVED_SHARE * operators[small].instructions):
            operators[small] = less(both, operators[large])
            into[small] = large
    return Breakdown(whole=found.whole, call=found.call, operators=tuple(operators), fused=into)


def less(counts: Counts, other: Counts) -> Counts:
    """Return the difference of two counts, without misses; nothing falls below 0."""
    return Counts(
        instructions=max(0, counts.instructions - other.instructions),
        load_bytes=max(0, counts.load_bytes - other.load_bytes),
        store_bytes=max(0, counts.store_bytes - other.store_bytes),
        classes={name: max(0, value - other.classes[name]) for name, value in counts.classes.items()},
    )


def _counted(paths: Sequence[Path], device: Device) -> list[Counts]:
    """Count files in their order, so many in a process as it may load side by side."""
    groups: list[list[Path]] = [[]]
    size = 0
    for path in paths:
        size += path.stat().st_size
        if size > _PROCESS_BYTES and groups[-1]:
            groups.append([])
            size = path.stat().st_size
        groups[-1].append(path)
    return [counts for group in groups for counts in count(group, device).counts]
