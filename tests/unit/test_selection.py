"""The fewest layers that are enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeport.quant.selection import Sensitivity, Trials, fewest, rank

ORDER = tuple("abcdefghij")


def needing(*wanted: str) -> Callable[[frozenset[str]], bool]:
    """Return a question that is answered yes when all of these are raised."""
    return lambda raised: set(wanted) <= raised


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("a", "a"), ("b", "b"), ("ab", "ab"), ("ac", "ac"), ("aeg", "aeg"), ("j", "j"), ("abcdefghij", "abcdefghij")],
)
def test_only_layers_that_are_needed_are_chosen(wanted: str, chosen: str) -> None:
    assert fewest(ORDER, Trials(needing(*wanted))) == tuple(chosen)


def test_nothing_is_chosen_where_all_layers_are_not_enough() -> None:
    assert fewest(ORDER, Trials(needing("elsewhere"))) is None
    assert fewest((), Trials(needing("elsewhere"))) is None


def test_either_of_two_layers_is_the_more_sensitive_one() -> None:
    assert fewest(ORDER, Trials(lambda raised: bool(raised & {"c", "f"}))) == ("c",)


def test_first_layer_costs_one_trial() -> None:
    trials = Trials(needing("a"))
    fewest(ORDER, trials)
    assert trials.count == 1


def test_a_choice_is_tried_once() -> None:
    asked: list[frozenset[str]] = []

    def holds(raised: frozenset[str]) -> bool:
        asked.append(raised)
        return {"a", "d", "g"} <= raised

    fewest(ORDER, Trials(holds))
    assert len(asked) == len(set(asked))


def test_spent_trials_end_with_layers_that_hold() -> None:
    layers = tuple(f"layer{index:03}" for index in range(200))
    question = needing("layer000", "layer150")
    trials = Trials(question, most=6)
    chosen = fewest(layers, trials)
    assert chosen is not None
    assert question(frozenset(chosen))
    assert trials.count <= 7  # the last one asks about all of them, which must be known


def test_two_needed_layers_of_200_are_found_in_40_trials() -> None:
    layers = tuple(f"layer{index:03}" for index in range(200))
    trials = Trials(needing("layer000", "layer150"), most=40)
    assert fewest(layers, trials) == ("layer000", "layer150")


def test_layers_far_above_the_median_stand_out_with_their_writers() -> None:
    divergences = {"a": 3e-2, "b": 9e-5, "c": 8e-5, "d": 7e-5, "e": 6e-5}
    writers = {"a": "d", "b": "c"}
    found = [Sensitivity(layer=name, divergence=value, writer=writers.get(name)) for name, value in divergences.items()]
    ranking = rank(found)
    assert ranking.order == ("a", "d", "b", "c", "e")
    assert ranking.standing_out == ("a", "d")
    assert rank(found[1:]).standing_out == ()
    assert rank([]).order == ()
