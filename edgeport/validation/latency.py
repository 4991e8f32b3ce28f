"""Latency of a file, beside that of the float file on the same runtime."""

from __future__ import annotations

from edgeport.devices.host import Timing
from edgeport.types import Metric, Origin


def metrics(timing: Timing, float_timing: Timing | None, *, origin: Origin) -> list[Metric]:
    """Return `latency_p50_ms`, `latency_p90_ms` and, beside another file, `latency_float_p50_ms` and `speedup`.

    Args:
        timing: of the file.
        float_timing: of the float file, interleaved with `timing`; None where the file is the float file.
        origin: of the machine that both ran on.
    """
    found = [
        Metric(name="latency_p50_ms", value=timing.p50_ms, unit="ms", origin=origin),
        Metric(name="latency_p90_ms", value=timing.p90_ms, unit="ms", origin=origin),
    ]
    if float_timing is not None:
        ratio = float_timing.p50_ms / timing.p50_ms
        found.append(Metric(name="latency_float_p50_ms", value=float_timing.p50_ms, unit="ms", origin=origin))
        found.append(Metric(name="speedup", value=ratio, unit="x", origin=origin))
    return found
