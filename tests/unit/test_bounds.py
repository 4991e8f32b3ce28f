"""What an operator's time goes to, by a roofline of the file's own operators."""

from __future__ import annotations

import pytest

from edgeport.formats import OpTime
from edgeport.formats.bounds import sentence, time_shares
from edgeport.types import OpCost


def cost(name: str, macs: int, size: int) -> OpCost:
    return OpCost(name=name, kind="Conv", dtype="float32", macs=macs, activation_bytes=size)


def ran(name: str, ms: float | None) -> OpTime:
    return OpTime(name=name, kind="Conv", kernel="", ms=ms)


def test_each_operator_is_held_by_what_it_needs_most() -> None:
    # Best rates: 1000 multiply-adds a ms (dense) and 100 bytes a ms (copy).
    costs = [cost("dense", 4000, 40), cost("copy", 0, 200), cost("call", 100, 10), cost("mixed", 100, 90)]
    times = [ran("dense_nchwc", 4.0), ran("copy", 2.0), ran("call", 1.0), ran("mixed", 1.0)]
    found = {share.bound: (round(share.time_share, 4), share.names) for share in time_shares(costs, times)}
    assert found == {
        "arithmetic": (0.5, ("dense_nchwc",)),
        "memory": (0.375, ("copy", "mixed")),  # mixed needs 0.1 ms to compute and 0.9 ms to move
        "overhead": (0.125, ("call",)),  # needs 0.1 ms either way and takes 1
    }


def test_shares_add_up_and_the_largest_comes_first() -> None:
    costs = [cost(str(number), number * 10, number) for number in range(1, 8)]
    shares = time_shares(costs, [ran(str(number), 1.0) for number in range(1, 8)])
    assert sum(share.time_share for share in shares) == pytest.approx(1.0)
    assert [share.time_share for share in shares] == sorted((share.time_share for share in shares), reverse=True)


def test_a_runtime_without_times_gives_nothing() -> None:
    assert time_shares([cost("a", 1, 1)], [ran("a", None)]) == ()
    assert time_shares([], []) == ()


def test_the_sentence_names_the_slowest() -> None:
    costs = [cost(name, 0, 100) for name in "abcde"]
    times = [ran(name, 1.0 + place / 10) for place, name in enumerate("abcde")]
    assert sentence(time_shares(costs, times)) == ("of the operators' time, 100% bound by memory (e, d, c and 2 more)")
