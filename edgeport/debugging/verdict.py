"""Which layer, and whose: the rules that turn errors into a sentence.

A layer is judged by its own error (see `study`), never by what it was given, so the layer named is the one that
computes wrongly and not one behind it. Three rules:

- float32: a runtime that adds in another order stays above 100 dB, one that approximates an exponential above 80;
  below FLOAT_DB the layer computes something else.
- int8, against the others: all files have the same ranges and the same float weights, so the same layer has about the
  same error in each (within 3 dB on ResNet-20; 7-bit weights instead of 8-bit cost up to 6). A file whose layer is
  ODD_DB worse than in every other int8 file that computes it in integers (or twice that worse than in one), or SPAN_DB
  worse with another range, is odd; the former unless its error is as small as 8 bits allow (GOOD_DB).
- int8, against itself: a layer FRAGILE_DB worse than the file's median layer, and below LOW_DB, is fragile: 8 bits are
  too few for it, in whatever file; unless so much error came in already that this takes less than FALL_DB. Where it
  makes a value whose small channels the next layer needs, and that layer is fragile too, the one with the larger
  outliers among its weights is blamed first: rescaling a channel in one layer and back in the next changes only that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from statistics import median
from typing import TYPE_CHECKING, Literal

from edgeport.debugging.measure import LOWEST_DB

if TYPE_CHECKING:
    from edgeport.debugging.study import Layers, Study

FLOAT_DB = {"float32": 60.0, "float16": 40.0}
ODD_DB = 10.0
GOOD_DB = 40.0  # an error of 1 %: 8 bits do no better, and a runtime that keeps its last result in float does
SPAN_DB = 3.0
SPAN_SHARE = 0.1  # of the width of the others' range
FRAGILE_DB = 10.0
LOW_DB = 35.0
FALL_DB = 5.0  # its own error is more than twice all that came in, here or at the layers that read it
BLAME_SHARE = 2.0  # how many times larger the outliers of the layer behind must be to be blamed before the one ahead
UNQUANTIZED_DB = 70.0  # a layer above that only moves values, or runs in float
AGREE_DB = 1.0  # float files that are this close to each other are wrong in the same way

Kind = Literal["float", "odd", "fragile"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A layer that computes badly in a file.

    Attributes:
        file: the file's label.
        layer: how the layer is called: the provenance key of its convolution, also where a ReLU is part of it.
        key: the key of the value that was looked at.
        kind: which rule it broke.
        own_db: SQNR of the layer's own error.
        usual_db: what it was judged against: the worst other file, the file's median layer, or the limit of floats.
        before_db: SQNR of the worst value that the layer reads, against PyTorch.
        after_db: SQNR of its own value, against PyTorch.
        shape: the file's shape of the value, where it is another than PyTorch's.
        reader: the layer at which its error does most harm, where that is more than at its own output.
        span: lowest and highest real of the value's integers, where the other files' range is another.
        usual_span: the other files' range, then.
    """

    file: str
    layer: str
    key: str
    kind: Kind
    own_db: float
    usual_db: float
    before_db: float
    after_db: float
    shape: tuple[int, ...] | None = None
    reader: str | None = None
    span: tuple[float, float] | None = None
    usual_span: tuple[float, float] | None = None

    @property
    def jump_db(self) -> float:
        """How much worse the layer is than usual, or how far SQNR falls from what it reads: whichever is more."""
        return max(self.before_db - self.after_db, self.usual_db - self.own_db)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who is wrong.

    Attributes:
        first: file label -> the first layer that breaks a rule; None: there is none.
        odd: labels of the files that are wrong where others are right; `torch` where all float files agree on another
            value than PyTorch has.
        fragile: layers for which 8 bits are too few in a file that is not wrong otherwise, the one to blame first.
        findings: everything found, by file and in execution order.
        undecided: labels of float files that differ from each other, when nobody can tell which is wrong.
    """

    first: dict[str, Finding | None]
    odd: tuple[str, ...]
    fragile: tuple[str, ...]
    findings: tuple[Finding, ...]
    undecided: tuple[str, ...] = ()


def judge(network: Layers, studies: Sequence[Study], *, has_torch: bool) -> Verdict:
    """Apply the rules to all files of a build; without PyTorch's values two float files cannot outvote each other."""
    strict = {found.file.label: _findings(network, found, studies) for found in studies}
    known = frozenset(finding.key for found in strict.values() for finding in found if finding.kind == "fragile")
    by_file = {found.file.label: _findings(network, found, studies, fragile=known) for found in studies}
    floats = [by_file[found.file.label] for found in studies if found.file.is_float]
    are_alike = len(floats) > 1 and all(floats) and _alike([found[0] for found in floats])
    torch_is_odd = are_alike and has_torch
    wrong = [
        label
        for label, found in by_file.items()
        if any(finding.kind != "fragile" for finding in found) and not (are_alike and found[0].key == floats[0][0].key)
    ]
    sound = [finding for label, found in by_file.items() if label not in wrong for finding in found]
    fragile = _blamed(network, [finding for finding in sound if finding.kind == "fragile"])
    for label, found in by_file.items():
        if label not in wrong:
            by_file[label] = sorted(
                found, key=lambda finding: fragile.index(finding.key) if finding.key in fragile else -1
            )
    return Verdict(
        first={label: found[0] if found else None for label, found in by_file.items()},
        odd=("torch", *wrong) if torch_is_odd else tuple(wrong),
        fragile=tuple(dict.fromkeys(network.layer_key(key) for key in fragile)),
        findings=tuple(finding for found in by_file.values() for finding in found),
        undecided=tuple(found[0].file for found in floats) if are_alike and not has_torch else (),
    )


def _blamed(network: Layers, findings: Sequence[Finding]) -> list[str]:
    """Return the keys of fragile layers in execution order, but a layer before one whose outliers it only suffers."""
    keys = [key for key in network.keys if any(finding.key == key for finding in findings)]
    for place in range(len(keys) - 1):
        one, other = keys[place : place + 2]
        is_harmed_there = any(f.key == one and f.reader == network.layer_key(other) for f in findings)
        if is_harmed_there and network.outliers(other) > BLAME_SHARE * network.outliers(one):
            keys[place : place + 2] = [other, one]
    return keys


def _alike(firsts: Sequence[Finding]) -> bool:
    ends = [finding.own_db for finding in firsts]
    return len({finding.key for finding in firsts}) == 1 and max(ends) - min(ends) < AGREE_DB


def _findings(
    network: Layers, found: Study, studies: Sequence[Study], *, fragile: frozenset[str] = frozenset()
) -> list[Finding]:
    """Return what breaks a rule in one file; a layer that is `fragile` in another file needs half as much here."""
    others = [
        other for other in studies if other is not found and other.file.precision == found.file.precision == "int8"
    ]
    limit = FLOAT_DB.get(found.file.precision)
    own = [sums.own_db for sums in found.layers.values() if sums.own_db < UNQUANTIZED_DB]
    typical = median(own) if own else LOWEST_DB
    result = []
    for key, sums in found.layers.items():
        broken: tuple[Kind, float] | None = None
        if limit is not None:
            broken = ("float", limit) if sums.own_db < limit else None
        elif (peers := _peers(key, found, others)) and _is_odd(key, found, others, peers):
            broken = ("odd", min(peers) if min(peers) - sums.own_db >= SPAN_DB else max(peers))
        elif sums.own_db < min(LOW_DB, typical - FRAGILE_DB * (0.5 if key in fragile else 1.0)) and (
            key in fragile or _fall(key, found) >= FALL_DB
        ):
            broken = ("fragile", typical)
        if broken is not None:
            result.append(_finding(network, found, key, broken, others))
    return result


def _peers(key: str, found: Study, others: Sequence[Study]) -> list[float]:
    """Return the own errors of a layer in the other int8 files, in dB, where they compute it in integers.

    To theirs is added what the range of this file's value costs here, unless it is the range that differs: rounding
    where only this file rounds, and values cut off because what arrived was too large.
    """
    has_other_span = _other_spans(key, found, others) is not None
    cost = 0.0 if key not in found.spans or has_other_span else 10 ** (-found.layers[key].ranged.sqnr_db / 10)
    known = [other.layers[key].own_db for other in others if key in other.layers]
    return [-10 * log10(10 ** (-own / 10) + cost) for own in known if own < UNQUANTIZED_DB]


def _fall(key: str, found: Study) -> float:
    """Return how far SQNR falls through a layer's own error, at its output or at a layer that reads it, in dB."""
    sums = found.layers[key]
    here = sums.arriving.sqnr_db - sums.whole.sqnr_db
    readers = [name for name, effect in sums.effects.items() if effect.sqnr_db < sums.own.sqnr_db]
    there = [sums.arriving.sqnr_db - found.layers[name].arriving.sqnr_db for name in readers if name in found.layers]
    return max([here, *there])


def _is_odd(key: str, found: Study, others: Sequence[Study], peers: Sequence[float]) -> bool:
    own = found.layers[key].own_db
    deficit = min(peers) - own
    has_other_span = _other_spans(key, found, others) is not None
    is_far_worse = deficit >= ODD_DB or max(peers) - own >= 2 * ODD_DB
    return (is_far_worse and own < GOOD_DB) or (deficit >= SPAN_DB and has_other_span)


def _other_spans(key: str, found: Study, others: Sequence[Study]) -> tuple[float, float] | None:
    """Return the range that all other files give a value, when this file gives it another."""
    spans = [other.spans[key] for other in others if key in other.spans]
    mine = found.spans.get(key)
    if mine is None or not spans:
        return None
    width = max(high - low for low, high in spans)

    def differs(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return max(abs(one[0] - other[0]), abs(one[1] - other[1])) > SPAN_SHARE * width

    if any(differs(one, spans[0]) for one in spans) or not differs(mine, spans[0]):
        return None
    return spans[0]


def _finding(network: Layers, found: Study, key: str, broken: tuple[Kind, float], others: Sequence[Study]) -> Finding:
    sums = found.layers[key]
    usual_span = _other_spans(key, found, others)
    reader, effect = min(
        ((key, effect.sqnr_db) for key, effect in sums.effects.items()), key=lambda item: item[1], default=("", 0.0)
    )
    before = [found.layers[source].whole.sqnr_db for source in _visible_feeds(network, found, key)]
    return Finding(
        file=found.file.label,
        layer=network.layer_key(key),
        key=key,
        kind=broken[0],
        own_db=sums.own_db,
        usual_db=broken[1],
        before_db=min(before, default=sums.arriving.sqnr_db),
        after_db=sums.whole.sqnr_db,
        shape=sums.shape,
        reader=network.layer_key(reader) if reader and effect < sums.own.sqnr_db else None,
        span=found.spans.get(key) if usual_span is not None else None,
        usual_span=usual_span,
    )


def _visible_feeds(network: Layers, found: Study, key: str) -> list[str]:
    """Return the keys that a layer reads in this file, past values that the file does not show."""
    result: dict[str, None] = {}
    waiting = list(network.feeds(key))
    while waiting:
        source = waiting.pop()
        if source in found.layers:
            result[source] = None
        else:
            waiting.extend(network.feeds(source))
    return list(result)
