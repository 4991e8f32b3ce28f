"""What `edgeport debug` prints: errors by layer and file, the verdict in sentences, and both as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from edgeport.debugging.debug import Debugged
    from edgeport.debugging.study import LayerSums, Study
    from edgeport.debugging.verdict import Finding

SHOWN_MORE = 4  # further findings of a file


def print_debugged(found: Debugged, console: Console) -> None:
    """Print the whole result."""

    def say(line: str, style: str = "") -> None:
        console.print(line, highlight=False, markup=False, style=style)

    console.print(_table(found))
    say("  SQNR in dB and cosine, each layer's value against the reference; < the first layer that computes badly")
    say(f"  reference: {found.reference}; {found.samples}", "dim")
    for note in found.notes:
        say(f"  note: {note}")
    say("")
    for line in sentences(found):
        say(line)


def sentences(found: Debugged) -> list[str]:
    """Return the verdict: a sentence a file that is wrong, a fragile layer, or that nothing stands out."""
    verdict = found.verdict
    lines = []
    if "torch" in verdict.odd:
        first = next(finding for finding in verdict.first.values() if finding is not None)
        lines.append(
            f"odd one out: torch: every runtime's float file agrees on another value of {first.layer} than the stored "
            "network computes; was model.safetensors or network.json changed?"
        )
    for label in verdict.odd:
        if label != "torch" and (worst := verdict.first[label]) is not None:
            lines.append(f"odd one out: {label}: first wrong at {worst.layer}: {_told(found, worst)}")
            lines += _more(found, label)
    if verdict.undecided:
        at = verdict.first[verdict.undecided[0]]
        lines.append(
            f"undecided: {' and '.join(verdict.undecided)} differ at {at.layer if at else '?'}; which of the two is "
            "wrong cannot be told without PyTorch's network"
        )
    for layer in verdict.fragile:
        told = [finding for finding in verdict.findings if finding.layer == layer and finding.kind == "fragile"]
        labels = [study.file.label for study in found.studies if study.file.precision == "int8"]
        where = [finding.file for finding in told]
        scope = "every int8 file" if set(where) == set(labels) else ", ".join(where)
        alone = "" if len(labels) > 1 else " (the only one: whether the file or the layer is at fault, it cannot tell)"
        lines.append(f"fragile: {layer}: in {scope}{alone}: {_told(found, told[0])}")
    if verdict.fragile and not verdict.odd:
        lines.append("no odd one out: where the error jumps it does so in the layer itself, not in one runtime's file")
    for name in found.unread:
        lines.append(f"unreadable: {name}")
    if not lines:
        lines.append("nobody is wrong: no layer stands out in any file")
    return lines


def _more(found: Debugged, label: str) -> list[str]:
    first = found.verdict.first[label]
    others = [finding for finding in found.verdict.findings if finding.file == label and finding is not first]
    if not others:
        return []
    named = ", ".join(f"{finding.layer} ({finding.own_db:.1f} dB)" for finding in others[:SHOWN_MORE])
    rest = f" and {len(others) - SHOWN_MORE} more" if len(others) > SHOWN_MORE else ""
    return [f"  behind it also {named}{rest}, which may follow from the first"]


def _told(found: Debugged, finding: Finding) -> str:
    fall = f"SQNR {finding.before_db:.1f} -> {finding.after_db:.1f} dB"
    usual = {
        "float": f"a float file stays above {finding.usual_db:.0f} dB",
        "odd": f"{_others(found, finding)}",
        "fragile": f"the file's median layer has {finding.usual_db:.1f} dB",
    }[finding.kind]
    own = f"its own error is {finding.own_db:.1f} dB"
    if finding.reader is not None and finding.kind == "fragile":
        own += f" at {finding.reader}, which reads it: too few steps for its small channels"
    parts = [f"{fall}; {own}, {usual}"]
    if finding.shape is not None:
        parts.append(f"its shape is {'x'.join(map(str, finding.shape))}")
    if finding.span is not None and finding.usual_span is not None:
        parts.append(f"its integers span {_ends(finding.span)}, the others' {_ends(finding.usual_span)}")
    return "; ".join(parts)


def _ends(span: tuple[float, float]) -> str:
    return f"{span[0]:.4g}..{span[1]:.4g}"


def _others(found: Debugged, finding: Finding) -> str:
    own = [
        f"{study.file.label} has {study.layers[finding.key].own_db:.1f} dB"
        for study in found.studies
        if study.file.label != finding.file and study.file.precision == "int8" and finding.key in study.layers
    ]
    return ", ".join(own)


def _table(found: Debugged) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for study in found.studies:
        table.add_column(Text(study.file.label.replace(" ", "\n", 1)), justify="right")
    for key in found.layers:
        table.add_row(Text(found.names[key]), *(_cell(found, study, key) for study in found.studies))
    return table


def _cell(found: Debugged, study: Study, key: str) -> Text:
    sums = study.layers.get(key)
    if sums is None:
        return Text("-", style="dim")
    first = found.verdict.first.get(study.file.label)
    is_first = first is not None and first.key == key
    return Text(
        f"{sums.whole.sqnr_db:.1f} {sums.whole.cosine:.4f} {'<' if is_first else ' '}",
        style="bold red" if is_first else "",
    )


def debugged_json(found: Debugged) -> dict[str, object]:
    """Return everything as JSON values."""
    return {
        "schema": 1,
        "reference": found.reference,
        "samples": found.samples,
        "odd_one_out": list(found.verdict.odd),
        "fragile": list(found.verdict.fragile),
        "verdict": sentences(found),
        "notes": list(found.notes),
        "unread": list(found.unread),
        "files": {study.file.label: _file_json(found, study) for study in found.studies},
    }


def _file_json(found: Debugged, study: Study) -> dict[str, object]:
    label = study.file.label
    first = found.verdict.first.get(label)
    return {
        "file": study.file.name,
        "target": study.file.target,
        "runtime": study.file.runtime,
        "precision": study.file.precision,
        "first_jump": None if first is None else _finding_json(first),
        "findings": [_finding_json(finding) for finding in found.verdict.findings if finding.file == label],
        "as_shipped_db": round(study.kept.sqnr_db, 3),
        "layers": [{"layer": found.names[key], "key": key, **_layer_json(sums)} for key, sums in study.layers.items()],
    }


def _finding_json(finding: Finding) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(finding), "jump_db": finding.jump_db}


def _layer_json(sums: LayerSums) -> dict[str, float]:
    return {
        "sqnr_db": round(sums.whole.sqnr_db, 3),
        "cosine": round(sums.whole.cosine, 6),
        "own_db": round(sums.own_db, 3),
        "arriving_db": round(sums.arriving.sqnr_db, 3),
    }
