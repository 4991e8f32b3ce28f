"""A traced graph that learns, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distill_case import Net, teacher, traced
from torch import nn

from edgeport.training.checkpoint import State, load_state, save_state
from edgeport.training.modes import ends_in_softmax, frozen_copy, load_tensors, tensors_of, training_copy, with_tensors


class Norm(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x)
        return normed


@pytest.mark.parametrize(
    ("momentum", "mean"),
    [(0.25, 0.25 * 2), (None, 0.1 * 2)],  # (1 - momentum) * 0 + momentum * 2; None falls back to 0.1
)
def test_training_copy_moves_running_statistics_by_the_momentum(momentum: float | None, mean: float) -> None:
    learner = training_copy(traced(Norm(nn.BatchNorm1d(1, momentum=momentum)), [(1,)]).module)
    result = learner(torch.tensor([[1.0], [3.0]]))  # mean 2, variance 1 (biased), 2 (unbiased, which is tracked)
    share = momentum or 0.1
    assert learner.norm.running_mean.item() == pytest.approx(mean)  # type: ignore[union-attr,operator]  # fx attributes
    assert learner.norm.running_var.item() == pytest.approx(1 - share + share * 2)  # type: ignore[union-attr,operator]  # as above
    torch.testing.assert_close(result, torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)  # eps 1e-5


def test_training_copy_of_a_norm_without_statistics_keeps_the_batch_s_own() -> None:
    module = traced(Norm(nn.BatchNorm1d(1, track_running_stats=False)), [(1,)]).module
    assert "batch_norm.default" in str(module.graph)
    assert training_copy(module).code == module.code


def test_training_copy_drops_and_the_original_does_not() -> None:
    module = traced(Norm(nn.Dropout(0.5)), [(100,)]).module
    ones = torch.ones(2, 100)
    assert set(training_copy(module)(ones).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(module(ones), ones)


def test_training_copy_learns_and_frozen_copy_does_not() -> None:
    module = teacher().module
    assert all(parameter.requires_grad for parameter in training_copy(frozen_copy(module)).parameters())
    assert not any(parameter.requires_grad for parameter in frozen_copy(module).parameters())


def test_with_tensors_changes_the_copy_only() -> None:
    module = teacher().module
    doubled = {name: value * 2 for name, value in tensors_of(module).items()}
    before = {name: value.clone() for name, value in tensors_of(module).items()}
    result = with_tensors(module, doubled)
    assert all(torch.equal(value, doubled[name]) for name, value in tensors_of(result).items())
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(module).items())


def test_load_tensors_refuses_other_names_and_shapes() -> None:
    module = teacher().module
    tensors = tensors_of(module)
    with pytest.raises(ValueError, match=r"tensors differ: \['linear.bias'\]"):
        load_tensors(module, {name: value for name, value in tensors.items() if name != "linear.bias"})
    with pytest.raises(ValueError, match=r"linear.bias is \(4,\), not \(5,\)"):
        load_tensors(module, {**tensors, "linear.bias": torch.zeros(5)})


def test_ends_in_softmax_knows_probabilities_from_logits() -> None:
    assert ends_in_softmax(traced(nn.Sequential(Net(), nn.Softmax(dim=1))).module)
    assert not ends_in_softmax(traced(nn.Sequential(Net(), nn.LogSoftmax(dim=1))).module)
    assert not ends_in_softmax(traced(Net()).module)


def test_save_state_gives_back_every_bit(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = State(
        epochs=2,
        tensors={"a.weight": weight, "count": torch.tensor(3)},
        momentum={"a.weight": weight / 3},
        losses=(1 / 3, 0.1),
        seconds=(1.5, 2.5),
    )
    save_state(tmp_path / "new" / "checkpoint", state, "mine")
    found = load_state(tmp_path / "new" / "checkpoint", "mine")
    assert found is not None
    assert (found.epochs, found.losses, found.seconds) == (2, state.losses, state.seconds)
    assert torch.equal(found.tensors["a.weight"], weight)
    assert torch.equal(found.tensors["count"], torch.tensor(3))
    assert torch.equal(found.momentum["a.weight"], weight / 3)
    assert load_state(tmp_path / "new" / "checkpoint", "other") is None
    assert load_state(tmp_path / "none", "mine") is None


def test_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    state = State(epochs=1, tensors={"w": torch.ones(2)}, momentum={}, losses=(1.0,), seconds=(1.0,))
    save_state(tmp_path / "checkpoint", state, "mine")
    content = (tmp_path / "checkpoint").read_bytes()
    length = int.from_bytes(content[:8], "little")  # safetensors: 8 bytes of header length, JSON, raw values
    assert content[8:9] == b"{"
    assert content[8 + length :] == torch.ones(2).numpy().tobytes()
