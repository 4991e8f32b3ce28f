"""Memory of a TFLite file's activations, planned from the file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeport.formats.arena import ALIGNMENT, Life, arena_bytes

LIVES = st.lists(
    st.builds(
        lambda size, first, length: Life(size=size, first=first, last=first + length),
        st.integers(0, 5000),
        st.integers(0, 12),
        st.integers(0, 4),
    ),
    max_size=12,
)


def test_what_lives_one_after_the_other_shares_a_place() -> None:
    chain = [Life(size=640, first=place, last=place + 1) for place in range(-1, 6)]
    assert arena_bytes(chain) == 2 * 640


def test_places_are_aligned() -> None:
    assert arena_bytes([Life(size=1, first=0, last=1), Life(size=1, first=0, last=1)]) == ALIGNMENT + 1


def test_the_smallest_gap_is_taken() -> None:
    lives = [
        Life(size=640, first=0, last=9),
        Life(size=320, first=0, last=0),
        Life(size=256, first=0, last=9),
        Life(size=128, first=2, last=3),
    ]
    assert arena_bytes(lives) == 640 + 320 + 256


def test_nothing_takes_nothing() -> None:
    assert arena_bytes([]) == 0
    assert arena_bytes([Life(size=0, first=0, last=1)]) == 0


@given(LIVES)
def test_it_lies_between_what_lives_at_once_and_everything_side_by_side(lives: list[Life]) -> None:
    times = range(0, 20)
    at_once = max((sum(life.size for life in lives if life.first <= time <= life.last) for time in times), default=0)
    assert at_once <= arena_bytes(lives) <= sum(life.size + ALIGNMENT for life in lives)
