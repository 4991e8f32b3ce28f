"""What each step of a build did to accuracy, size and latency, a row a step for every target, the shipped file last.

Accuracy of steps is that of float PyTorch; sizes and latencies are those of the target's float files, written for every
step that changed what a file costs and timed interleaved with the shipped file.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping  # msgspec reads it
from typing import TYPE_CHECKING

import msgspec

from edgeport.devices import host
from edgeport.errors import LoweringError
from edgeport.formats.bounds import sentence, time_shares
from edgeport.lowering import float_file
from edgeport.store import digest
from edgeport.types import Origin
from edgeport.validation import energy
from edgeport.validation.ablation import Row, ablation
from edgeport.validation.origin import origin_on_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeport.cost_model import CostModel
    from edgeport.dataset import Dataset
    from edgeport.lowering import Built
    from edgeport.profile import TargetProfile
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.stages.lower import Lowered
    from edgeport.store import Store
    from edgeport.types import Metric

SECONDS = 0.5  # of timing a file
PROMISE = 0.6  # share of what fewer multiply-adds promise, below which the report says what holds the network back
RUNS = 30  # inferences from which operator times are taken


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        step: `float` for the network that came in, the stage that changed it, or the number format of the shipped file.
        top1: percent; None without labels or class scores.
        agreement: percent of samples with the same answer as the network that came in; None without class scores.
        macs: multiply-adds of one sample.
        weights_nonzero: values in all parameters that are not zero; of the shipped file the last step's.
        size_bytes: of the target's file; None where its backend cannot write this step's network.
        why_no_file: what the backend said then.
        latency_p50_ms: batch one, one inference.
        origin: of the latency, and of the shipped file's accuracy.
        energy_shares: board, or the target itself -> energy over that of the network that came in, modelled.
    """

    step: str
    top1: float | None
    agreement: float | None
    macs: int
    weights_nonzero: int
    size_bytes: int | None
    latency_p50_ms: float | None
    origin: Origin
    why_no_file: str = ""
    energy_shares: Mapping[str, float] = msgspec.field(default_factory=dict)


def steps(
    store: Store,
    chain: Chain,
    samples: Dataset,
    progress: Progress,
    targets: Sequence[tuple[TargetProfile, Built, Sequence[Metric]]],
) -> dict[str, list[Step]]:
    """Return target -> its rows, the network that came in first.

    Args:
        store: where files and figures lie.
        chain: the build's stages.
        samples: evaluation samples.
        progress: where to show progress.
        targets: with their files and the shipped file's figures.
    """
    rows = ablation(store, chain, samples, progress)
    found = {}
    for target, built, metrics in targets:
        files = _files(store, chain, target, built, rows)
        times = _times(store, target, [*(file for file in files if not isinstance(file, str)), built[0]])
        origin = origin_on_host(target)
        table = [_step(row, file, times, origin) for row, file in zip(rows, files, strict=True)]
        table.append(_shipped(built[0], rows[-1], {metric.name: metric for metric in metrics}, times))
        costs = [None if isinstance(file, str) else (file.costs, times[file.key]) for file in (*files, built[0])]
        shares = energy.shares(target, costs)
        found[target.name] = [
            msgspec.structs.replace(row, energy_shares=share) for row, share in zip(table, shares, strict=True)
        ]
    return found


def step_notes(store: Store, target: TargetProfile, built: Built, rows: Sequence[Step]) -> list[str]:
    """Return what the report says of a target's steps: those without a file, speed that did not come, what holds int8.

    There is no int8 file of the network that came in to compare a pruned one with, so it is always said.
    """
    missing = [f"no file of step {row.step}: {row.why_no_file}" for row in rows if row.why_no_file]
    slow = shortfall(store, target, built, rows)
    held = ""
    if rows[-1].macs < rows[0].macs and built[0].artifact.precision == "int8":
        held = _where_time_goes(store, target, built[0])
    said = [*([slow] if slow else []), *([f"the pruned int8 file: {held}"] if held else [])]
    return [*missing, *said, *_energy_order(target, rows)]


def _energy_order(target: TargetProfile, rows: Sequence[Step]) -> list[str]:
    """Return the steps in the order of their predicted energy, for boards of which there are no joules."""
    said = []
    models: Mapping[str, CostModel | None] = target.cost_models or {"": None}
    for at, model in models.items():
        name = at.removeprefix("@") or target.name
        known = sorted((row.energy_shares[name], row.step) for row in rows if name in row.energy_shares)
        if len(known) > 1 and (model is None or not model.has_joules):
            order = ", ".join(f"{step} {share:.2f}" for share, step in known)
            where = f" on {name}" if at else ""
            said.append(f"least energy first{where}, of what {rows[0].step} takes: {order} (modelled)")
    return said


def shortfall(store: Store, target: TargetProfile, built: Built, rows: Sequence[Step]) -> str:
    """Return why the float file gained less speed than its multiply-adds promise; empty where it kept the promise.

    Args:
        store: where what operators are bound by is kept.
        target: whose runtime.
        built: its files.
        rows: its steps.
    """
    first, last = rows[0], rows[-2]
    if first.latency_p50_ms is None or last.latency_p50_ms is None or last.macs == first.macs:
        return ""
    gained, promised = first.latency_p50_ms / last.latency_p50_ms, first.macs / last.macs
    if gained >= PROMISE * promised:
        return ""
    why = _where_time_goes(store, target, built[1]) or "its runtime tells no times of operators"
    return (
        f"with {promised:.2f}x fewer multiply-adds the float file is {gained:.2f}x faster ({last.origin}), less than"
        f" {PROMISE:.0%} of that: {why}"
    )


def _where_time_goes(store: Store, target: TargetProfile, file: Lowered) -> str:
    """Return what a file's operators are bound by; empty where its runtime tells no times.

    It lies in the store, as operators' times differ from one look to the next.
    """
    key = digest("bounds", file.key, target.threads, [platform.machine(), platform.node()])
    folder = store.get(key)
    if folder is not None:
        return (folder / "why.txt").read_text()
    ran = host.profile((file.artifact.path,), threads=target.threads, runs=RUNS)[0]
    shares = time_shares(file.costs, ran)
    said = sentence(shares) if shares else ""
    with store.put(key) as fresh:
        (fresh / "why.txt").write_text(said)
    return said


def _files(
    store: Store, chain: Chain, target: TargetProfile, built: Built, rows: Sequence[Row]
) -> tuple[Lowered | str, ...]:
    """Return the float file of every step, or why there is none; steps that cost the same share one."""
    written: dict[tuple[int, int], Lowered | str] = {(rows[-1].macs, rows[-1].weights): built[1]}
    files = []
    for row, step in zip(rows, chain.float_steps(), strict=True):
        costs = row.macs, row.weights
        if costs not in written:
            try:
                written[costs] = float_file(store, target, step.model, key=step.key)
            except LoweringError as error:  # the network that ships can be written, so the build goes on
                written[costs] = str(error)
        files.append(written[costs])
    return tuple(files)


def _times(store: Store, target: TargetProfile, files: Sequence[Lowered]) -> Mapping[str, float]:
    """Return key of a file -> median milliseconds, of all files interleaved."""
    unique = {file.key: file.artifact.path for file in files}
    key = digest("steps", list(unique), target.threads, [platform.machine(), platform.node()])
    folder = store.get(key)
    if folder is None:
        timings = host.bench(list(unique.values()), threads=target.threads, seconds=SECONDS * len(unique))
        found = {name: timing.p50_ms for name, timing in zip(unique, timings, strict=True)}
        with store.put(key) as fresh:
            (fresh / "times.json").write_bytes(msgspec.json.encode(found))
        return found
    return msgspec.json.decode((folder / "times.json").read_bytes(), type=dict[str, float])


def _step(row: Row, file: Lowered | str, times: Mapping[str, float], origin: Origin) -> Step:
    return Step(
        step=row.step,
        top1=row.top1,
        agreement=row.agreement,
        macs=row.macs,
        weights_nonzero=row.weights_nonzero,
        size_bytes=None if isinstance(file, str) else file.artifact.size_bytes,
        latency_p50_ms=None if isinstance(file, str) else times[file.key],
        origin=origin,
        why_no_file=file if isinstance(file, str) else "",
    )


def _shipped(shipped: Lowered, last: Row, metrics: Mapping[str, Metric], times: Mapping[str, float]) -> Step:
    top1, agreement = metrics.get("top1"), metrics.get("agreement@original", metrics.get("agreement"))
    return Step(
        step=shipped.artifact.precision,
        top1=None if top1 is None else top1.value,
        agreement=None if agreement is None else agreement.value,
        macs=last.macs,
        weights_nonzero=last.weights_nonzero,
        size_bytes=shipped.artifact.size_bytes,
        latency_p50_ms=times[shipped.key],
        origin=metrics["latency_p50_ms"].origin,
    )
