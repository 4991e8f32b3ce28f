"""Examine the calibration data beside a build, and add what was found to the record of `trace`.

Findings are advice: they never change a verdict. The record of `trace` itself lies in the store under a key without the
data, so what was found lies there under a key of its own.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import msgspec

from edgeport.examination import BUILD, examine
from edgeport.store import digest

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.stages.chain import Chain
    from edgeport.types import StageRecord

RESULT = "examination.json"


def examined(chain: Chain, records: tuple[StageRecord, ...]) -> tuple[StageRecord, ...]:
    """Return the chain's records, with `findings` and their circumstances among the first one's metrics."""
    data = chain.data.calibrate or chain.data.evaluate
    others = chain.data.evaluate if data is not chain.data.evaluate else None
    key = digest("examine", chain.trace_key, data.digest, others.digest if others is not None else None, asdict(BUILD))
    folder = chain.store.get(key)
    found = msgspec.json.decode((folder / RESULT).read_bytes()) if folder is not None else _examine(chain, data, others)
    if folder is None:
        with chain.store.put(key) as fresh:
            (fresh / RESULT).write_bytes(msgspec.json.encode(found))
    trace, *after = records
    return replace(trace, metrics={**trace.metrics, **found}), *after


def _examine(chain: Chain, data: Dataset, others: Dataset | None) -> dict[str, object]:
    chain.progress.log("examine the data")
    start = time.perf_counter()
    seen = examine(data, chain.original(), evaluate=others, effort=BUILD)
    return {
        "findings": [asdict(finding) for finding in seen.findings],
        "examined": {
            "samples": seen.looked_at,
            "of": seen.samples,
            "ranges": [list(point) for point in seen.curve],
            "ranges_of": seen.curve_of,
            "notes": list(seen.notes),
            "seconds": time.perf_counter() - start,
        },
    }
