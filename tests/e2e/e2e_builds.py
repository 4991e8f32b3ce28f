"""Builds that several end-to-end tests look at; each is made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_case import NETWORKS, Run, available_targets, edgeport, write_samples


@dataclass(frozen=True, kw_only=True)
class Build:
    """A finished `edgeport build --json`.

    Attributes:
        run: how it ended.
        arguments: of the command line, without `--output` and `--json`.
        cwd: where it ran.
        store: its store.
    """

    run: Run
    arguments: tuple[str, ...]
    cwd: Path
    store: Path

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.cwd / "out"

    def report(self) -> dict[str, Any]:
        """Return the report."""
        return self.run.report()

    def again(self, *, output: Path, store: Path | None = None) -> Run:
        """Run the same command into another folder."""
        common = ("--output", str(output), "--json")
        return edgeport(*self.arguments, *common, store=store or self.store, cwd=self.cwd)


def build(cwd: Path, *arguments: str, store: Path | None = None) -> Build:
    """Run `edgeport build ARGUMENTS` in a folder."""
    store = store or cwd / "store"
    run = edgeport("build", *arguments, "--output", "out", "--json", store=store, cwd=cwd)
    return Build(run=run, arguments=("build", *arguments), cwd=cwd, store=store)


@pytest.fixture(scope="session")
def demo_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the embedded default, pruned, distilled and in int8, for a phone and for any CPU."""
    targets = [name for name in ("arm64", "cpu") if name in available_targets()]
    if not targets:
        pytest.skip("needs edgeport[tflite] or edgeport[onnxruntime]")
    return build(tmp_path_factory.mktemp("demo"), "--target", ",".join(targets))


@pytest.fixture(scope="session")
def two_by_two_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the network of two inputs and two outputs, in int8, for every runtime that is installed."""
    targets = available_targets()
    if not targets:
        pytest.skip("needs one of edgeport[tflite], edgeport[openvino], edgeport[onnxruntime]")
    folder = tmp_path_factory.mktemp("two-by-two")
    for name, seed in (("calibrate", 0), ("evaluate", 1)):
        write_samples(folder / f"{name}.npz", {"x0": (40, 3, 12, 12), "x1": (40, 5)}, seed=seed)
    data = ("--calibrate", "calibrate.npz", "--evaluate", "evaluate.npz")
    return build(folder, f"{NETWORKS}:two_by_two", *data, "--target", ",".join(targets))
