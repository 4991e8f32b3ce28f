"""How `--prune` is written."""

from __future__ import annotations

import pytest

from edgeport.errors import ConfigError
from edgeport.pruning.grains import Pruning, Sparsity, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0.5, Pruning(filters=0.5)),
        ("0.5", Pruning(filters=0.5)),
        ("filter:0.5", Pruning(filters=0.5)),
        ("fine:0.8", Pruning(sparsity=(Sparsity(kind="fine", share=0.8),))),
        ("layer:2, filter:0.5", Pruning(blocks=2, filters=0.5)),
        ("2:4", Pruning(sparsity=(Sparsity(kind="n:m", share=0.5, keep=2, of=4),))),
        (
            "filter:0.25, kernel:0.5",
            Pruning(filters=0.25, sparsity=(Sparsity(kind="kernel", share=0.5),)),
        ),
        (
            "vector:0.3,1:4",
            Pruning(sparsity=(Sparsity(kind="vector", share=0.3), Sparsity(kind="n:m", share=0.75, keep=1, of=4))),
        ),
    ],
)
def test_grains_are_read(text: str | float, expected: Pruning) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["fine:0.8", "2:4", "kernel:0.5", "vector:0.25"])
def test_sparsity_is_written_as_it_was_read(text: str) -> None:
    assert str(parse(text).sparsity[0]) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.0", "--prune 1.0: a share of the filters, from 0 to below 1"),
        ("fine:1.5", "--prune fine:1.5: a share of the weights, from 0 to below 1"),
        ("kernel:-1", "a share of the kernels"),
        ("vector:many", "a share of the vectors"),
        ("nan", "a share of the filters"),
        ("", "a share of the filters"),
        (
            "kernal:0.5",
            "unknown grain 'kernal'; known: filter, fine, vector, kernel, layer, 2:4 (did you mean kernel?)",
        ),
        ("layer:0", "a number of residual blocks, 1 or more"),
        ("layer:0.5", "a number of residual blocks, 1 or more"),
        ("4:4", "N:M keeps N of M weights"),
        ("0:4", "N:M keeps N of M weights"),
        ("2:400", "M <= 16"),
        ("0.5,filter:0.5", "filter is named twice"),
        ("1:4,2:4", "n:m is named twice"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value)
