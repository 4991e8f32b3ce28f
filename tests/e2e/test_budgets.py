"""Pruning to a budget, with every criterion compared, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e_case import edgeport, target_or_skip


def test_half_of_the_multiply_adds_by_the_best_criterion(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    options = ("--macs", "0.5", "--importance", "auto", "--distill", "1", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code in {0, 6}, run.err  # one epoch need not hold the limits

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    prune = next(stage for stage in report["stages"] if stage["name"] == "prune")
    figures = prune["metrics"]
    assert 0 < figures["macs_after"] <= 0.5 * figures["macs_before"]
    compared = {name: found for name, found in figures["importance"]["compared"].items() if "error" in found}
    assert {"l1", "l2", "fpgm", "taylor", "activation"} <= set(compared)
    assert figures["importance"]["used"] in compared
    said = " ".join(run.out.split())
    assert f"importance {figures['importance']['used']}, the best of {len(compared)}, for --macs 0.5" in said

    again = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert (again.code, "prune" in again.err) == (run.code, False)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--macs", "0.5", "--prune", "0.5"), 2, "--prune filter:0.5 and --macs 0.5 say how far to cut"),
        (("--latency", "1.5"), 2, "--latency 1.5: a share of the float file's latency"),
        (("--prune-rounds", "2"), 2, "--prune-rounds cuts on the way to a budget"),
        (("--macs", "0.5", "--prune-rounds", "9"), 2, "--prune-rounds 9 distills after every cut"),
        (("--macs", "0"), 2, "--macs 0: a share of the multiply-adds to keep"),
        (("--macs", "1"), 2, "--macs 1: a share of the multiply-adds to keep"),
        (("--size", "5GB"), 2, "--size 5GB: bytes of weights such as 500kB"),
        (("--macs", "0.0001"), 4, "--macs 0.0001 cannot be met: the least with uniform allocation"),
        (("--prune", "1"), 2, "a share of the filters, from 0 to below 1"),
        (("--prune", "0.01"), 4, "nothing can be cut from this network"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, options: tuple[str, ...], code: int, words: str) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == code, run.err
    assert words in run.err.strip().splitlines()[-1]
