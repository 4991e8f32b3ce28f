"""Writes the page of predicted latency and energy; a part of power.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import power_emulated
import power_steady
from power_emulated import Trial
from power_fit import PROXIES, Array, Quality, Row, proxy_rank
from power_steady import Steady

from edgeport.cost_model import FORMATS, TERMS, CostModel

WORST = 4  # networks named as worst predicted


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One metered system and how it was predicted from left-out families.

    Attributes:
        system: the log's name.
        target: that carries its constants; empty: a check only.
        named: in words.
        rows: its networks.
        energy: predictions, nanojoules, a value a row.
        energy_quality: of those.
        simpler: name -> how good a simpler prediction is, on calibrated systems.
        latency_quality: of latency's.
        trial: how emulated counts do as further terms.
    """

    system: str
    target: str
    named: str
    rows: tuple[Row, ...]
    energy: Array
    energy_quality: Quality
    simpler: Mapping[str, Quality]
    latency_quality: Quality
    trial: Trial


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A board predicted from another's constants and one metered network; `found`: median and worst choice of it."""

    source: str
    board: str
    found: tuple[Quality, Quality]


@dataclass(frozen=True, kw_only=True)
class Further:
    """Evidence beyond the boards whose constants were fitted.

    Attributes:
        transfers: boards predicted from another's constants.
        tiny: prediction -> its relative errors on microcontrollers.
        boards: how many of those.
        by_time: ratios of latency in place of ratios of energy.
    """

    transfers: Sequence[Transfer]
    tiny: Mapping[str, Array]
    boards: int
    by_time: Steady


def page(found: Sequence[Evidence], further: Further, models: Mapping[str, CostModel]) -> str:
    """Return the page's text."""
    calibrated = [one for one in found if one.target]
    checks = [one for one in found if not one.target]
    lines = [
        "# Latency and energy: how far predictions can be trusted",
        "",
        "Written by `python benchmarks/power.py --data ../shared/data`. Metered figures are derived from the logs that",
        "MLPerf Inference and MLPerf Tiny publish; they were not verified by MLCommons, and the logs do not state",
        "thread counts. Everything edgeport says of a board's latency or energy is *modelled* with these constants,",
        "from the operators of the file that ships, and printed with its interval, source and rank correlation.",
        "",
        "## The model",
        "",
        "Energy and median latency of one inference are a sum of seven terms (`edgeport/cost_model.py`), each a",
        "constant of the board and the number format. All constants are fitted with relative errors, none may be",
        "negative. The terms were chosen on the three calibrated systems below, the other systems had no part in it.",
        "What emulation counts (instructions, cache misses) was tried as further terms: see below.",
        "",
        "## Energy of networks whose family was left out",
        "",
        "Each prediction comes from constants fitted to the other model families. The interval is meant to hold 90 %;",
        "*inside* is the share that it holds where the network's own family had no part in its width.",
        "",
        "| system | networks | Spearman | Kendall | error p50 | p90 | inside |",
        "|---|---|---|---|---|---|---|",
        *(_quality_row(one.named, len(one.rows), one.energy_quality) for one in calibrated),
        *(_quality_row(f"{one.named} (check)", len(one.rows), one.energy_quality) for one in checks),
        "",
        "Rank correlation with metered energy, on the same networks, of simpler figures (watts are the other families'",
        "mean):",
        "",
        f"| system | this model | {' | '.join([*calibrated[0].simpler, *PROXIES])} |",
        f"|---|---|{'---|' * (len(calibrated[0].simpler) + len(PROXIES))}",
        *(_proxy_row(one) for one in calibrated),
        "",
        "![Predicted against metered energy](power.svg)",
        "",
        "## Latency of networks whose family was left out",
        "",
        "| system | networks | Spearman | Kendall | error p50 | p90 | inside |",
        "|---|---|---|---|---|---|---|",
        *(_quality_row(one.named, len(one.rows), one.latency_quality) for one in calibrated),
        "",
        "## What is predicted worst",
        "",
        *(line for one in calibrated for line in _worst(one)),
        "Where these lie at one end of a family (the narrowest MobileNetV1, ResNet-50 with its 3x3 convolutions,",
        "MobileNetV3 with operators that no other family has), constants from the other families extrapolate.",
        "",
        "## A board that was never fitted, with one network metered on it",
        "",
        "The constants of a metered board, scaled so that one network's energy is right (`cost_like` with",
        "`energy_scale` in a target file); then all other networks are predicted. For the median and the worst choice",
        "of that network:",
        "",
        "| constants of | board | Spearman | error p50 | p90 | error p50, worst choice |",
        "|---|---|---|---|---|---|",
        *(_transfer_row(one) for one in further.transfers),
        "",
        "`python benchmarks/power.py --data ../shared/data --board LOG.csv:SYSTEM --like TARGET` says the same of",
        "another board's log. Boards with other cores or another runtime are predicted less well: see the last row.",
        "",
        *power_steady.section(further.by_time),
        *power_emulated.section([one.trial for one in found]),
        "## Microcontrollers",
        "",
        f"MLPerf Tiny, {further.boards} boards with all four networks metered; the network judged is left out.",
        "",
        "| energy from | error p50 | p90 |",
        "|---|---|---|",
        *(
            f"| {name} | {np.median(errors):.1%} | {np.quantile(errors, 0.9):.1%} |"
            for name, errors in further.tiny.items()
        ),
        "",
        "## Constants",
        "",
        "As they stand in `targets/*.toml`; this script fails where they differ from what it fits.",
        "",
        f"| target | format | | {' | '.join(TERMS)} | interval |",
        f"|---|---|---|{'---|' * len(TERMS)}---|",
        *(line for target, model in models.items() for line in _constant_rows(target, model)),
        "",
        "| target | idle W | networks metered, multiply-adds | source |",
        "|---|---|---|---|",
        *(
            f"| {target} | {model.idle_w} | {model.least_macs / 1e6:.1f} M to {model.most_macs / 1e6:.0f} M |"
            f" {model.source} |"
            for target, model in models.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _quality_row(named: str, count: int, found: Quality) -> str:
    inside = "-" if found.covered is None else f"{found.covered:.0%}"
    return (
        f"| {named} | {count} | {found.spearman:.4f} | {found.kendall:.3f} | {found.p50:.1%} | {found.p90:.1%} |"
        f" {inside} |"
    )


def _proxy_row(one: Evidence) -> str:
    ranks = [found.spearman for found in (one.energy_quality, *one.simpler.values())]
    ranks += [proxy_rank(one.rows, proxy) for proxy in PROXIES.values()]
    return f"| {one.named} | {' | '.join(f'{rank:.4f}' for rank in ranks)} |"


def _worst(one: Evidence) -> list[str]:
    errors = one.energy / np.array([row.energy_nj for row in one.rows]) - 1
    order = np.argsort(-np.abs(errors))[:WORST]
    named = ", ".join(f"{one.rows[i].network} {one.rows[i].dtype} {errors[i]:+.0%}" for i in order)
    return [f"- {one.named}: {named}."]


def _transfer_row(one: Transfer) -> str:
    usual, worst = one.found
    return (
        f"| {one.source} | {one.board} | {usual.spearman:.4f} | {usual.p50:.1%} | {usual.p90:.1%} | {worst.p50:.1%} |"
    )


def _constant_rows(target: str, model: CostModel) -> list[str]:
    lines = []
    for form in FORMATS:
        rates = model.rates(form)
        pairs = (
            ("latency, ns", rates.latency_ns, rates.latency_factor),
            ("energy, nJ", rates.energy_nj, rates.energy_factor),
        )
        for name, terms, factor in pairs:
            values = " | ".join(f"{value:.4g}" for value in msgspec.structs.asdict(terms).values())
            lines.append(f"| {target} | {form} | {name} | {values} | x / {factor} to x {factor} |")
    return lines
