"""Small networks, one a kind of channel coupling, for the pruning tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own convention
from torch import nn
from torch.fx import GraphModule


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Give norms random statistics, scales of both signs and shifts: fresh ones hide what a cut channel leaves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=generator)
            fan_in = max(1, value[0].numel()) if value.dim() > 1 else 1
            value.copy_(0.5 + drawn.abs() if name.endswith("running_var") else drawn * (2.0 / fan_in) ** 0.5)
    return network.eval()


def traced(network: nn.Module, inputs: tuple[torch.Tensor, ...], *, dynamic: bool = True) -> GraphModule:
    """Trace as `edgeport.stages.trace` does."""
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    program = torch.export.export(network, inputs, dynamic_shapes=shapes)
    inner = program.module(check_guards=False)
    return GraphModule(inner, inner.graph)


class PaddedBlock(nn.Module):
    """Residual block whose shortcut pads missing channels with zeros (He et al. 2015, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            before = self.missing // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.missing - before))
        return F.relu(y + x)


class PaddedResNet(nn.Module):
    """Three stages, 8 -> 16 -> 32 channels, as ResNet-20."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            PaddedBlock(width, width, 1),
            PaddedBlock(width, 2 * width, 2),
            PaddedBlock(2 * width, 2 * width, 1),
            PaddedBlock(2 * width, 4 * width, 2),
        )
        self.linear = nn.Linear(4 * width, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class ProjectedResNet(nn.Module):
    """Residual block with a 1x1 convolution in the shortcut, as ResNet-8; biases, asymmetric padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu(self.bn0(self.stem(x)))
        y = F.relu(self.bn1(self.conv1(F.pad(x, (0, 1, 0, 1)))))
        x = F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Inverted residual with depthwise convolutions, one with a multiplier of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand, self.bn1 = nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depthwise, self.bn2 = nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.project, self.bn3 = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.doubled = nn.Conv2d(8, 16, 3, 1, 1, groups=8)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x))))))
        x = x + self.bn3(self.project(y))
        return self.head(F.hardswish(self.doubled(x))).mean((2, 3))


class Grouped(nn.Module):
    """ResNeXt-like grouped convolution between dense ones, then a channel shuffle by hand and another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped, self.bn = nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32)
        self.grouped2 = nn.Conv2d(32, 16, 1, groups=2)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.silu(self.bn(self.grouped(torch.sigmoid(self.conv1(x)))))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.linear(F.leaky_relu(self.grouped2(x)).amax((2, 3)))


class Dense(nn.Module):
    """DenseNet-like: every layer reads the concatenation of all before it; a norm sits on the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 12, 3, padding=1)
        self.bn3, self.linear = nn.BatchNorm2d(28), nn.Linear(28, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([self.conv2(F.relu(self.bn2(x))), x], 1)
        return self.linear(F.avg_pool2d(F.relu(self.bn3(x)), 8).flatten(1))


class Flattened(nn.Module):
    """(N, C, H, W) -> (N, C*H*W) -> linear -> linear with BatchNorm1d, and a view back to pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.linear1, self.bn = nn.Linear(8 * 16, 24), nn.BatchNorm1d(24)
        self.linear2 = nn.Linear(24, 12 * 4)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.flatten(F.max_pool2d(torch.tanh(self.conv(x)), 1), 1)
        x = F.relu(self.bn(self.linear1(x)))
        return self.last(F.elu(self.up(self.linear2(x).view(x.shape[0], 12, 2, 2))))


class TwoByTwo(nn.Module):
    """Two inputs, two outputs, a shared trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1)
        self.trunk, self.bn = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.picture, self.scores = nn.Conv2d(16, 3, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = F.relu(self.left(x)) * 0.5 + F.relu(self.right(y))
        z = F.relu(self.bn(self.trunk(z)))
        return self.picture(z) + x, self.scores(z.mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channel gates (Hu et al. 2018) and a learned scale a channel; split and rejoined halves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.prelu = nn.PReLU(16)
        self.mix = nn.Conv2d(16, 16, 1)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.hardswish(self.bn(self.conv(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = self.prelu(x * gate * self.scale)
        first, second = self.mix(x).chunk(2, 1)
        x = torch.cat([F.relu(second), first[:, :6], first[:, 6:]], 1)
        return self.linear(F.interpolate(x, scale_factor=2).mean((2, 3)))


class Rearranged(nn.Module):
    """Pixel shuffle and back, channel shuffle, channels last, parameter product, a shortcut that concatenates zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.conv3, self.wide = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 16, 1)
        self.shuffled = nn.Conv2d(16, 12, 1)
        self.last = nn.Linear(12, 8)
        self.matrix = nn.Parameter(torch.ones(8, 6))
        self.offset = nn.Parameter(torch.ones(1, 1, 6))
        self.norm = nn.InstanceNorm2d(12, affine=True)
        self.head = nn.Conv1d(6, 5, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv2(F.pixel_shuffle(F.gelu(self.conv1(x)), 2))
        x = self.conv3(F.pixel_unshuffle(x, 2))
        n, c, h, w = x.shape
        x = self.wide(F.relu(x)) + torch.cat([x, torch.zeros(n, c, h, w)], 1)
        x = self.norm(self.shuffled(F.channel_shuffle(F.relu(x), 4)))
        x = F.softmax(self.last(x.permute(0, 2, 3, 1)), 1) @ self.matrix
        x = x.reshape(n, h * w, 6) + self.offset.expand(n, h * w, 6)
        return self.head(x.transpose(1, 2)).unflatten(2, (2, -1)).sum((2, 3))


class Twice(nn.Module):
    """One convolution applied twice, and one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.one, self.other = nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(8, 16, 1, bias=False)
        self.other.weight = self.one.weight
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu(self.again(F.relu(self.again(F.relu(self.stem(x))))))
        return self.linear((self.one(x) * self.other(x.flip(3))).mean((2, 3)))


class ShuffleUnits(nn.Module):
    """Two units of ShuffleNet V2 (Ma et al. 2018): halves apart, one through a branch, joined and shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 5)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU()),
                *(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)),
                *(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for branch in self.branches:
            kept, worked = x.chunk(2, 1)
            x = torch.cat((kept, branch(worked)), 1)
            n, c, h, w = x.shape
            x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """Fused attention with a table of position biases, attention by hand with narrow keys, gated MLP, class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 12, 2, 2), nn.Parameter(torch.zeros(1, 1, 12))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 3 * 4 * 5), nn.Linear(20, 12)  # 4 heads, 5 wide
        self.table = nn.Parameter(torch.zeros(33, 4))
        self.index: torch.Tensor
        self.register_buffer("index", torch.arange(17)[:, None] - torch.arange(17)[None] + 16)
        self.qkv2, self.bn, self.proj2 = nn.Linear(12, 3 * (2 + 2 + 6)), nn.BatchNorm1d(30), nn.Linear(18, 12)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.up, self.down = nn.Linear(12, 32), nn.Linear(16, 12)
        self.head = nn.Linear(12, 5)

    def fused(self, x: torch.Tensor) -> Any:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(17, 17, 4).permute(2, 0, 1).unsqueeze(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(n, t, 20))

    def by_hand(self, x: torch.Tensor) -> Any:
        n, t, _ = x.shape
        x = self.qkv2(x)
        x = self.bn(x.flatten(0, 1)).reshape_as(x)
        q, k, v = torch.split(x.view(n, t, 3, 10), [2, 2, 6], dim=3)
        weights = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1) * self.scale
        y = weights.softmax(-1) @ v.permute(0, 2, 1, 3)
        return self.proj2(F.hardswish(y.transpose(1, 2).reshape(n, t, 18)))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1)
        x = x + self.fused(self.norm1(x))
        x = x + torch.roll(self.by_hand(torch.roll(self.norm2(x), 1, 1)), -1, 1)
        gate, value = self.up(self.norm3(x)).chunk(2, -1)
        return self.head((x + self.down(F.silu(gate) * value))[:, 0])


class Windows(nn.Module):
    """Attention in two blocks of tokens at once, heads behind the blocks (as in NesT); group-wise repeated channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 4, 2, 1), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.narrow, self.wide = nn.Conv2d(12, 8, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        n, t, c = x.shape
        qkv = self.qkv(x.view(n, 2, t // 2, c)).reshape(n, 2, t // 2, 3, 3, 4).permute(3, 0, 4, 1, 2, 5)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.proj(y.permute(0, 2, 3, 1, 4).reshape(n, t, c))
        x = F.relu(self.narrow(x.transpose(1, 2).reshape(n, c, 4, 4)))
        return self.wide(x.repeat(1, 2, 1, 1)).mean((2, 3))


class Encoder(nn.Module):
    """Torch's own multi-head attention over a sequence: it puts batch and heads into one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), nn.LayerNorm(16)
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.embed(x))
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


PICTURE = (3, 8, 8)
NETWORKS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "padded_resnet": (PaddedResNet, (PICTURE,)),
    "projected_resnet": (ProjectedResNet, (PICTURE,)),
    "mobile": (Mobile, (PICTURE,)),
    "grouped": (Grouped, (PICTURE,)),
    "dense": (Dense, (PICTURE,)),
    "flattened": (Flattened, (PICTURE,)),
    "two_by_two": (TwoByTwo, (PICTURE, (1, 8, 8))),
    "rearranged": (Rearranged, (PICTURE,)),
    "twice": (Twice, (PICTURE,)),
    "squeeze_excite": (SqueezeExcite, (PICTURE,)),
    "shuffle_units": (ShuffleUnits, (PICTURE,)),
    "transformer": (Transformer, (PICTURE,)),
    "windows": (Windows, (PICTURE,)),
    "encoder": (Encoder, ((6, 12),)),
}


def inputs_of(name: str, *, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return normal random inputs of a network."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, *shape, generator=generator) for shape in NETWORKS[name][1])
