"""Fast execution computes what the eager network computes, and shows the activations that a runtime has too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from graph_case import image, residual, traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import LARGEST_BATCH, Executor, batch_size, flat_outputs
from edgeport.types import Model


def executor_of(model: Model) -> Executor:
    return Executor(canonicalize(model.module, model.example_inputs), model.example_inputs)


class TwoInOut(nn.Module):
    """Two inputs, a dict of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(5, 4)

    def forward(self, picture: torch.Tensor, facts: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = F.relu(self.conv(picture))
        return {"map": hidden, "scores": hidden.mean((2, 3)) + self.linear(facts)}


class ReluTwice(nn.Module):
    """A convolution with two users: nothing may ride in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(y) + F.relu6(y)


NETWORKS: dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]] = {
    "conv": (nn.Conv2d(3, 8, 3), (image(),)),
    "conv without bias": (nn.Conv2d(3, 8, 3, bias=False), (image(),)),
    "conv, stride, padding, dilation": (nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2), (image(),)),
    "conv, rectangular": (nn.Conv2d(3, 8, (1, 5), stride=(2, 1), padding=(0, 2)), (image(),)),
    "conv, padding same": (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU()), (image(),)),
    "groups": (nn.Conv2d(4, 8, 3, groups=2), (image(channels=4),)),
    "depthwise with relu6": (
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(inplace=True)),
        (image(channels=4) * 9,),
    ),
    "hardtanh": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardtanh()), (image() * 9,)),
    "hardtanh with ends": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardtanh(-0.5, 2.0, inplace=True)), (image() * 9,)),
    "relu": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 3, 1)), (image(),)),
    "two users": (ReluTwice(), (image() * 9,)),
    "residual": (residual(), (image(),)),
    "linear": (nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)), (torch.randn(1, 5),)),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), (torch.randn(1, 3, 9),)),
    "several inputs and outputs": (TwoInOut(), (image(), torch.randn(1, 5))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_result_is_the_eager_networks(name: str) -> None:
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]
    model = traced(network, *inputs)
    executor = executor_of(model)
    for batch in (inputs, tuple(torch.cat([value, -value, value * 0.5]) for value in inputs)):
        kept = [value.clone() for value in batch]
        with torch.no_grad():
            wanted = flat_outputs(network(*[value.clone() for value in batch]))
        found = executor.run(batch)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert all(torch.equal(value, before) for value, before in zip(batch, kept, strict=True))


def test_running_twice_gives_the_same() -> None:
    executor = executor_of(traced(residual(), image()))
    first, second = (executor.run([image(3)])[0] for _ in range(2))
    assert torch.equal(first, second)


def seen_by(network: nn.Module, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def observe(key: str, value: torch.Tensor) -> None:
        assert key not in seen
        seen[key] = value.clone()

    executor_of(traced(network, *inputs)).run(inputs, observe)
    return seen


def test_observer_sees_what_a_runtime_materialises() -> None:
    network = residual()
    seen = seen_by(network, image())
    assert list(seen) == [
        "/x",
        "/relu",  # the stem's convolution and norm ride in it
        "layer1.0/relu",
        "layer1.0.conv2/conv2d",  # feeds an addition: its own values exist
        "layer1.0/add",
        "layer1.0/relu_1",
        "layer1.1/relu",
        "layer1.1.conv2/conv2d",
        "layer1.1/add",
        "layer1.1/relu_1",
        "act/hardtanh",  # nn.ReLU6, with the depthwise convolution in it
        "/adaptive_avg_pool2d",
        "/flatten",
        "linear/linear",
    ]
    with torch.no_grad():
        stem = F.relu(network.bn(network.stem(image())))
        torch.testing.assert_close(seen["/relu"], stem, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen["linear/linear"], network(image()), atol=1e-5, rtol=1e-5)


def test_convolution_with_two_users_is_seen_itself() -> None:
    assert list(seen_by(ReluTwice(), image())) == ["/x", "conv/conv2d", "/relu", "/relu6", "/add"]


def test_module_that_was_given_is_not_changed() -> None:
    model = traced(residual(), image())
    form = canonicalize(model.module, model.example_inputs)
    before = str(form.graph)
    Executor(form, model.example_inputs)
    assert str(form.graph) == before
    assert not [name for name, _ in form.named_buffers() if name.endswith("_packed")]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (((3, 224, 224),), 2),  # 1,250,000 bytes of cache / 602,112 bytes a sample
        (((3, 32, 32),), LARGEST_BATCH),  # 101 would fit
        (((3, 64, 64),), 25),  # 49,152 bytes
        (((3, 1000, 1000),), 1),  # never less than one
        (((3, 8, 8), (3, 224, 224)), 2),  # the largest input decides
        (((),), LARGEST_BATCH),  # a number a sample
    ],
)
def test_batch_fits_the_cache(shapes: tuple[tuple[int, ...], ...], expected: int) -> None:
    assert batch_size(shapes) == expected


def test_outputs_are_flattened_in_order() -> None:
    one, two, three = torch.ones(1), torch.zeros(2), torch.ones(3)
    assert flat_outputs(one) == (one,)
    found = flat_outputs({"a": [one, (two,)], "b": three})
    assert [value is wanted for value, wanted in zip(found, (one, two, three), strict=True)] == [True] * 3
