"""The result of a build as a value, and its form in `report.json` (contract: docs/architecture.md)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgeport.errors import ConfigError, LimitError, LoweringError
from edgeport.types import Metric, StageRecord, TargetResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a build found out.

    Attributes:
        model: name of the network.
        stages: a record a stage, in order; `lower` holds graph checks and notes a target.
        targets: target name -> result; only targets that were built.
        failures: target name -> why its backend could not express the network.
    """

    model: str
    stages: tuple[StageRecord, ...]
    targets: Mapping[str, TargetResult]
    failures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """`pass` when every target was built and no judged figure exceeds its limit."""
        return "fail" if self.failures or self.exceeded else "pass"

    @property
    def exceeded(self) -> tuple[tuple[str, Metric], ...]:
        """Judged figures beyond their limits, with their targets."""
        return tuple(
            (name, metric)
            for name, result in self.targets.items()
            for metric in result.metrics
            if metric.passed is False
        )

    @property
    def exit_code(self) -> int:
        """What `edgeport build` ends with."""
        if self.failures:
            return LoweringError.exit_code
        return LimitError.exit_code if self.exceeded else 0

    def to_json(self) -> str:
        """Return the text of `report.json`."""
        targets: dict[str, object] = {
            name: {"artifact": result.artifact, "metrics": [_figure(metric) for metric in result.metrics]}
            for name, result in self.targets.items()
        }
        targets |= {name: {"artifact": None, "metrics": []} for name in self.failures}
        content = {
            "schema": 1,
            "model": self.model,
            "verdict": self.verdict,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "targets": targets,
        }
        return json.dumps(content, indent=1) + "\n"


def read_report(path: Path) -> Report:
    """Return the report in a `report.json` or in the output folder that holds one.

    Raises:
        ConfigError: there is none, or it is not one of ours.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        content = msgspec.json.decode(file.read_bytes())
        stages = tuple(msgspec.convert(stage, StageRecord) for stage in content["stages"])
        built = {name: found for name, found in content["targets"].items() if found["artifact"] is not None}
        notes = next((stage.metrics for stage in stages if stage.name == "lower"), {})
        more = next((stage.metrics for stage in stages if stage.name == "validate"), {})
        targets = {
            name: TargetResult(
                artifact=found["artifact"],
                metrics=tuple(msgspec.convert(metric, Metric) for metric in found["metrics"]),
                notes=(*_notes(notes.get(name)), *_notes(more.get(name))),
            )
            for name, found in built.items()
        }
        failures = {name: "; ".join(_notes(notes.get(name))) for name in content["targets"] if name not in built}
        return Report(model=content["model"], stages=stages, targets=targets, failures=failures)
    except FileNotFoundError as error:
        raise ConfigError(f"no report at '{path}' (an output folder of edgeport build, or its report.json)") from error
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(f"'{file}' is not a report of edgeport build: {error}") from error


def _figure(metric: Metric) -> dict[str, object]:
    """Return a metric's JSON form; a count is a float too, as it is when it comes back from the store."""
    return dataclasses.asdict(metric) | {"value": float(metric.value)}


def _notes(found: object) -> tuple[str, ...]:
    notes = found.get("notes", ()) if isinstance(found, dict) else ()
    return tuple(str(note) for note in notes)
