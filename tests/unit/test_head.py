"""The last layer of a classifier: found behind softmax and changes of layout, and cut to some classes."""

from __future__ import annotations

import pytest
import torch
from graph_case import image, traced
from torch import nn

from edgeport.errors import StageError
from edgeport.graph.head import cut_head, find_head, logits_of

KEPT = (4, 0, 3)


class Classifier(nn.Module):
    """A convolution, pooling, and a head of 5 classes; `end` is what comes after it."""

    def __init__(self, head: nn.Module, end: nn.Module | None = None, *, is_flat: bool = True) -> None:
        super().__init__()
        self.conv, self.head, self.end, self.is_flat = nn.Conv2d(3, 6, 3), head, end or nn.Identity(), is_flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.relu(self.conv(x)).mean((2, 3), keepdim=not self.is_flat)
        scores: torch.Tensor = self.end(self.head(pooled))
        return scores


class View(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 5)


class Squeeze(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(3).squeeze(2)


class Pixel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0]


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.split = nn.Conv2d(6, 10, 1), nn.Conv2d(10, 5, 1, groups=5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.split(self.wide(x)).flatten(1)
        return scores


def pointwise(*end: nn.Module) -> Classifier:
    return Classifier(nn.Conv2d(6, 5, 1), nn.Sequential(*end), is_flat=False)


@pytest.mark.parametrize(
    "network",
    [
        Classifier(nn.Linear(6, 5)),
        Classifier(nn.Linear(6, 5, bias=False)),
        Classifier(nn.Linear(6, 5), nn.Dropout(0.5)),
        Classifier(nn.Linear(6, 5), View()),
        pointwise(nn.Flatten()),
        pointwise(Squeeze()),
        pointwise(View()),
        pointwise(Pixel()),
    ],
    ids=["linear", "no bias", "dropout", "linear view", "flatten", "squeeze", "view", "pixel"],
)
@pytest.mark.parametrize("softmax", [None, nn.Softmax(1), nn.LogSoftmax(-1)], ids=["logits", "softmax", "log"])
def test_cut_head_gives_the_conditional_scores_in_the_order_asked(
    network: Classifier, softmax: nn.Module | None
) -> None:
    whole = network.eval() if softmax is None else nn.Sequential(network, softmax).eval()
    model = traced(whole, image())
    head = find_head(model.module, model.example_inputs, flag="--classes")
    cut = cut_head(model.module, head, KEPT)
    pixels = image(4, seed=1)
    with torch.no_grad():
        logits = network(pixels)
        expected = logits[:, list(KEPT)] if softmax is None else softmax(logits[:, list(KEPT)])
        torch.testing.assert_close(cut(pixels), expected)
        torch.testing.assert_close(logits_of(model.module, head)(pixels), logits)
        torch.testing.assert_close(model.module(pixels), whole(pixels))  # the one given stays
    assert (head.classes, head.bias is None) == (5, getattr(network.head, "bias", None) is None)
    sizes = {tuple(value.shape) for value in cut.parameters()} - {(6, 3, 3, 3), (6,)}
    assert all(shape[0] == 3 for shape in sizes)
    assert cut.graph.find_nodes(op="placeholder")
    shapes = [node.meta["val"].shape for node in cut.graph.nodes if node.name in head.path]
    assert all(3 in shape and 5 not in shape for shape in shapes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.second(torch.relu(self.first(x)))
        return scores


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(x), x


@pytest.mark.parametrize(
    ("network", "inputs", "words"),
    [
        (Classifier(nn.Linear(6, 5), Scaled()), image(), r"come from operator aten\.div\.Tensor in 'end'; they must"),
        (Classifier(nn.Linear(6, 5), nn.ReLU()), image(), r"operator aten\.relu\.default in 'end'"),
        (Classifier(nn.Linear(6, 5), nn.Softmax(0)), image(), r"operator aten\.softmax\.int in 'end'"),
        (Classifier(Grouped(), is_flat=False), image(), r"operator aten\.conv2d\.default in 'head\.split'"),
        (nn.Identity(), torch.ones(1, 4), r"the class scores come from (operator aten\.alias|input)"),
        (nn.Conv2d(3, 5, 3), image(), r"is about class scores, \(classes,\) a sample; the network gives 5x6x6"),
        (nn.Linear(6, 1), torch.ones(1, 6), r"the network gives 1$"),
        (Two(), torch.ones(1, 6), r"the network gives 5, 6$"),
        (Tied(), torch.ones(1, 6), r"the weights of 'second' are computed, or shared with another layer"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), torch.ones(1, 6), r"are computed, or shared"),
    ],
    ids=["scale", "relu", "dim", "groups", "none", "map", "one", "two", "tied", "weight norm"],
)
def test_network_without_such_a_layer_is_told(network: nn.Module, inputs: torch.Tensor, words: str) -> None:
    model = traced(network, inputs)
    with pytest.raises(StageError, match=f"--classes.*{words}"):
        find_head(model.module, model.example_inputs, flag="--classes")
