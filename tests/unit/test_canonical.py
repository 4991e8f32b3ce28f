"""The canonical form: what is folded, what must not be, and the same function as before."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from graph_case import image, operators, randomized, residual, traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.types import Model

# float32 keeps 7 digits; folding moves a factor of up to 1.5 / sqrt(0.3) from one product to another.
TOLERANCE = 1e-5


def canonical(model: Model) -> torch.fx.GraphModule:
    return canonicalize(model.module, model.example_inputs)


def compared(network: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Check that the canonical form computes the same as the network, and return its operators."""
    model = traced(network, *inputs)
    form = canonical(model)
    with torch.no_grad():
        torch.testing.assert_close(form(*inputs), network(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
        if model.has_dynamic_batch:
            more = tuple(torch.cat([value, value * 0.5, -value]) for value in inputs)
            torch.testing.assert_close(form(*more), network(*more), atol=TOLERANCE, rtol=TOLERANCE)
    return operators(form)


FOLDED = {
    "conv2d": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), image()),
    "conv2d without bias": (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), image()),
    "strided, dilated": (nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, 2), nn.BatchNorm2d(8)), image()),
    "two groups": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), image(channels=4)),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), image(channels=4)),
    "same padding": (nn.Sequential(nn.Conv2d(3, 8, 4, padding="same"), nn.BatchNorm2d(8)), image()),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), torch.randn(1, 3, 9)),
    "linear": (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)), torch.randn(1, 5)),
    "norm without scale": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), image()),
    "tiny variance, large eps": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=0.1)), image()),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("seed", [0, 1])
def test_norm_after_a_layer_is_folded(name: str, seed: int) -> None:
    network, inputs = FOLDED[name]
    network = copy.deepcopy(network)
    if name != "norm without scale":
        randomized(network, seed)
    assert len(compared(network, inputs)) == 1


def test_folded_weights_by_hand() -> None:
    # y = gamma (w x + b - mean) / sqrt(var + eps) + beta with gamma 3, mean 1, var 3.75, eps 0.25, beta 5, w 2, b 7:
    # factor 3 / 2 = 1.5, weight 3, bias (7 - 1) * 1.5 + 5 = 14.
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.25)
    values = {conv.weight: 2.0, conv.bias: 7.0, norm.weight: 3.0, norm.bias: 5.0}
    for parameter, value in values.items():
        assert parameter is not None
        parameter.data.fill_(value)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(3.75)
    form = canonical(traced(nn.Sequential(conv, norm), torch.ones(1, 1, 1, 1)))
    assert {name: value.item() for name, value in form.named_buffers()} == {
        "conv2d_folded_weight": 3.0,
        "conv2d_folded_bias": 14.0,
    }
    assert dict(form.named_parameters()) == {}  # what was folded is not carried along


class Twice(nn.Module):
    """One convolution called twice, each time with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.conv(F.relu(self.first(self.conv(x)))))
        return found


def test_shared_convolution_is_folded_apart() -> None:
    assert compared(randomized(Twice()), image()) == ["conv2d.default", "relu.default", "conv2d.default"]


class TwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        found: torch.Tensor = y + self.bn(y)
        return found


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return y, self.bn(y)


class OwnStatistics(TwoUsers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(self.conv(x), None, None, self.bn.weight, self.bn.bias, training=True)


class Standardized(nn.Module):
    """A convolution whose weight is computed in the forward (weight standardization), then a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((2, 3), keepdim=True)
        found: torch.Tensor = self.bn(F.conv2d(x, weight))
        return found


STAYING: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "after relu": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), image()),
    "first": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), image()),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), image()),
    "transposed, as many channels": (nn.Sequential(nn.ConvTranspose2d(3, 3, 3), nn.BatchNorm2d(3)), image()),
    "conv with two users": (TwoUsers(), image()),
    "conv that is an output": (TwoOutputs(), image()),
    "computed weight": (Standardized(), image()),
    # Here the norm's channels are dimension 1, the linear layer's the last; both are 5.
    "linear of a sequence": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), torch.randn(1, 5, 6)),
}


@pytest.mark.parametrize("name", STAYING)
def test_norm_elsewhere_stays(name: str) -> None:
    network, inputs = STAYING[name]
    assert "batch_norm.default" in compared(randomized(copy.deepcopy(network)), inputs)


def test_norm_with_its_batchs_own_statistics_stays() -> None:
    assert compared(OwnStatistics(), image()) == ["conv2d.default", "batch_norm.default"]


class Spatial(nn.Module):
    def __init__(self, dims: object, keepdim: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dims, self.keepdim, self.dtype = dims, keepdim, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.dims, keepdim=self.keepdim, dtype=self.dtype)  # type: ignore[call-overload,no-any-return]  # any


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), (3, 2), (-2, 3)])
def test_spatial_mean_is_spelled_as_pooling(dims: tuple[int, int]) -> None:
    assert compared(Spatial(dims, keepdim=True), image()) == ["adaptive_avg_pool2d.default"]
    assert compared(Spatial(dims, keepdim=False), image()) == ["adaptive_avg_pool2d.default", "flatten.using_ints"]


@pytest.mark.parametrize("dims", [(1,), (2,), (3,), (1, 2, 3), (1, 2), None])
def test_other_means_stay(dims: tuple[int, ...] | None) -> None:
    model = traced(Spatial(dims, keepdim=True), image())
    form = canonical(model)
    assert operators(form) == ["mean.dim"]
    torch.testing.assert_close(form(image()), image().mean(dims, keepdim=True))


def test_mean_of_a_sequence_stays() -> None:
    assert compared(Spatial((1,), keepdim=False), torch.randn(1, 7, 5)) == ["mean.dim"]


def test_mean_in_another_dtype_keeps_it() -> None:
    model = traced(Spatial((2, 3), keepdim=False, dtype=torch.float64), image())
    assert canonical(model)(image()).dtype == torch.float64


class NoOps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.drop2d = nn.Dropout(0.5), nn.Dropout2d(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop2d(self.drop(x[:, :, 0:, :])).detach().clone()
        return torch.relu(x[:, :, :, :])


def test_no_ops_are_removed() -> None:
    assert compared(NoOps(), image()) == ["relu.default"]


class Slices(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, 1:], x[:, :-1], x[:, :, ::2].repeat(1, 1, 2, 1)], 1)


def test_slices_that_cut_stay() -> None:
    assert compared(Slices(), image()).count("slice.Tensor") == 3


class AlwaysDrops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x)  # its own default is to drop, in inference too


def test_active_dropout_is_not_removed_silently() -> None:
    assert operators(canonical(traced(AlwaysDrops(), image()))) == ["dropout.default"]


class WritesIntoCopy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 0] = 5.0
        return y + x


def test_copy_that_is_written_to_stays() -> None:
    assert "clone.default" in compared(WritesIntoCopy(), image())


def test_input_module_is_untouched() -> None:
    model = traced(residual(), image())
    before, state = operators(model.module), {k: v.clone() for k, v in model.module.state_dict().items()}
    form = canonical(model)
    assert operators(model.module) == before
    assert "batch_norm.default" in before
    after = model.module.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())
    shared = {value.data_ptr() for value in form.state_dict().values()} & {value.data_ptr() for value in after.values()}
    assert not shared


def test_canonical_form_of_a_canonical_form_is_itself() -> None:
    model = traced(residual(), image())
    form = canonical(model)
    again = canonicalize(form, model.example_inputs)
    assert operators(again) == operators(form)
    assert torch.equal(again(image(4)), form(image(4)))
