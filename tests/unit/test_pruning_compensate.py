"""What cut channels had carried, made up for by those that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pruning_networks import traced
from torch import nn

from edgeport.pruning.compensate import MOST_CHANNELS, Compensation, find_readers
from edgeport.pruning.elimination import elimination_scores
from edgeport.pruning.groups import find_groups
from edgeport.pruning.surgery import prune_channels

SAMPLES = 64


class Twins(nn.Module):
    """Channel 5 of four-pixel pictures is a linear function of the others but for a constant; then a reader."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.reader = reader
        weight, bias = self.first.parameters()
        with torch.no_grad():
            weight[5] = 2 * weight[0] - weight[3]
            bias[5] = 4.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        if isinstance(self.reader, nn.Linear):
            y = y.mean((2, 3))
        return self.reader(y)  # type: ignore[no-any-return]  # a tensor


def normed() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    statistics = dict(norm.named_buffers())
    statistics["running_mean"].uniform_(-1, 1)
    statistics["running_var"].uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(6, 2, 1, bias=False), norm)


def pictures(count: int = SAMPLES, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


READERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(6, 2, 3),
    "normed": normed,
    "linear": lambda: nn.Linear(6, 2),
    "transposed": lambda: nn.ConvTranspose2d(6, 2, 1),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_channel_that_others_determine_is_not_missed(kind: str) -> None:
    torch.manual_seed(1)
    module = traced(Twins(READERS[kind]()).eval(), (pictures(2),))
    state = copy.deepcopy(module.state_dict())
    groups = find_groups(module, (pictures(2),))
    kept = {"first": (0, 1, 2, 3, 4)}
    plain, repaired = prune_channels(module, groups, kept), prune_channels(module, groups, kept)

    changed = Compensation(module, groups, [(pictures().numpy()[:32],), (pictures().numpy()[32:],)]).apply(
        repaired, kept
    )

    unseen = pictures(8, seed=5)
    assert changed == 1
    assert not torch.allclose(plain(unseen), module(unseen), atol=0.1)
    torch.testing.assert_close(repaired(unseen), module(unseen), rtol=1e-3, atol=2e-3)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_weights_are_those_of_a_least_squares_fit() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    module = traced(network, (pictures(2),))
    groups = find_groups(module, (pictures(2),))
    kept = {"0": (0, 2, 3, 5, 6)}
    pruned = prune_channels(module, groups, kept)

    Compensation(module, groups, [(pictures(512).numpy(),)]).apply(pruned, kept)

    with torch.no_grad():
        read = torch.relu(network[0](pictures(512))).movedim(1, -1).reshape(-1, 8)
        wanted = network[2](torch.relu(network[0](pictures(512)))).movedim(1, -1).reshape(-1, 4)
    inputs = np.concatenate([read[:, list(kept["0"])].numpy(), np.ones((len(read), 1), np.float32)], axis=1)
    fitted = np.linalg.lstsq(inputs.astype(np.float64), wanted.numpy().astype(np.float64), rcond=None)[0]
    weight = pruned.get_parameter("2.weight").detach().flatten(1).numpy()
    np.testing.assert_allclose(weight, fitted[:-1].T, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(pruned.get_parameter("2.bias").detach().numpy(), fitted[-1], rtol=1e-2, atol=1e-3)


def test_noise_makes_up_for_nothing() -> None:
    """Eight pairs of sixteen unrelated inputs fit anything; the other half of the samples shows that it is nothing."""
    first = nn.Linear(16, 16)
    network = nn.Sequential(first, nn.Linear(16, 4)).eval()
    with torch.no_grad():
        first.weight.copy_(torch.eye(16))
        first.bias.zero_()
    noise = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    module = traced(network, (noise[:2],))
    groups = find_groups(module, (noise[:2],))
    kept = {"0": tuple(range(8))}
    plain, repaired = prune_channels(module, groups, kept), prune_channels(module, groups, kept)

    Compensation(module, groups, [(noise.numpy(),)]).apply(repaired, kept)

    unseen = torch.randn(512, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = module(unseen)
        errors = [float((cut(unseen) - exact).square().mean()) for cut in (plain, repaired)]
    assert errors[1] <= 1.1 * errors[0]


def test_what_is_read_twice_or_in_groups_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
            self.shared = nn.Conv2d(8, 8, 1)
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.shared(self.shared(self.depthwise(self.first(x))))
            return self.last(y)  # type: ignore[no-any-return]  # a tensor

    module = traced(Twice().eval(), (pictures(2),))
    readers = find_readers(module, find_groups(module, (pictures(2),)))

    assert [reader.weight for reader in readers] == ["first.weight", "last.weight"]


def test_too_wide_layers_stay() -> None:
    module = traced(
        nn.Sequential(nn.Linear(4, MOST_CHANNELS + 1), nn.Linear(MOST_CHANNELS + 1, 2)), (torch.ones(2, 4),)
    )

    readers = find_readers(module, find_groups(module, (torch.ones(2, 4),)))

    assert [reader.weight for reader in readers] == ["0.weight"]


def test_channels_that_others_determine_go_first_and_together_cost_most() -> None:
    torch.manual_seed(1)
    module = traced(Twins(nn.Conv2d(6, 2, 3)).eval(), (pictures(2),))
    groups = find_groups(module, (pictures(2),))
    readings = Compensation(module, groups, [(pictures(512).numpy(),)]).readings(groups.groups[0])

    assert readings is not None
    scores = elimination_scores(readings, 6)

    # six channels of three inputs: three of them cost next to nothing, whichever they are
    assert (np.sort(scores)[:3] < 0.01).all()
    assert (np.sort(scores)[3:] > 0.05).all()
    assert np.sort(scores)[-1] == pytest.approx(1, abs=0.02)  # all gone: all of the output's variance


def test_scores_are_errors_of_the_best_fits_left() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU(), nn.Conv2d(7, 5, 1)).eval()
    module = traced(network, (pictures(2),))
    groups = find_groups(module, (pictures(2),))
    readings = Compensation(module, groups, [(pictures(512).numpy(),)]).readings(groups.groups[0])
    assert readings is not None

    scores = elimination_scores(readings, 7)

    with torch.no_grad():
        read = torch.relu(network[0](pictures(512))).movedim(1, -1).reshape(-1, 7).double().numpy()
        output = network[2](torch.relu(network[0](pictures(512)))).movedim(1, -1).reshape(-1, 5).double().numpy()
    read, output = read - read.mean(0), output - output.mean(0)
    order = np.argsort(scores)
    for gone in range(1, 7):
        left = read[:, order[gone:]]
        error = np.square(output - left @ np.linalg.lstsq(left, output, rcond=None)[0]).sum() / np.square(output).sum()
        assert scores[order[gone - 1]] == pytest.approx(error, rel=0.05, abs=2e-3)


def test_a_group_that_only_grouped_layers_read_has_no_readings() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 4, 1)).eval()
    module = traced(network, (pictures(2),))
    groups = find_groups(module, (pictures(2),))
    compensation = Compensation(module, groups, [(pictures().numpy(),)])

    found = {group.name: compensation.readings(group) is not None for group in groups.groups}

    assert not found["0"]
    assert found["1"]
