"""The prune stage."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from pruning_networks import NETWORKS, PICTURE, PaddedResNet, inputs_of, randomised, traced
from torch import nn

from edgeport.dataset import Dataset, open_dataset
from edgeport.errors import ConfigError, StageError
from edgeport.pruning.recalibrate import recalibrate_batch_norm
from edgeport.pruning.structure import Structure, apply_structure
from edgeport.stages.context import Context
from edgeport.stages.prune import Prune
from edgeport.types import Model, TensorSpec


def model_of(network: nn.Module, *shapes: tuple[int, ...], dynamic: bool = True) -> Model:
    example = tuple(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    traced_with = tuple(torch.cat([value, value]) for value in example) if dynamic else example
    module = traced(network, traced_with, dynamic=dynamic)
    with torch.no_grad():
        result = module(*example)
    outputs = result if isinstance(result, tuple) else (result,)
    return Model(
        module=module,
        example_inputs=example,
        inputs=tuple(TensorSpec(name=f"x{i}", shape=shape, dtype="float32") for i, shape in enumerate(shapes)),
        outputs=tuple(
            TensorSpec(name=f"y{i}", shape=tuple(value.shape[1:]), dtype="float32") for i, value in enumerate(outputs)
        ),
        has_dynamic_batch=dynamic,
    )


@pytest.fixture(scope="module")
def resnet() -> Model:
    return model_of(randomised(PaddedResNet(width=16), 0), PICTURE)


def samples(folder: Path, count: int, *, shape: tuple[int, ...] = PICTURE, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    np.savez(folder / f"{count}-{seed}.npz", x=rng.normal(1, 2, (count, *shape)).astype(np.float32))
    return open_dataset(str(folder / f"{count}-{seed}.npz"))


def test_widths_are_multiples_and_figures_add_up(resnet: Model) -> None:
    result, metrics = Prune(ratio=0.4)(resnet, Context())

    # 8x8 input; within a block 9.6 -> 8, 19.2 -> 16, 38.4 -> 40; of the residual streams half is cut, up: 16, 32;
    # 40 where only one layer writes
    convolutions = [(3, 16, 64), (16, 8, 64), (8, 16, 64), (16, 16, 16), (16, 32, 16), (32, 16, 16), (16, 32, 16)]
    convolutions += [(32, 40, 4), (40, 40, 4)]
    assert metrics["macs_after"] == sum(9 * a * b * size for a, b, size in convolutions) + 40 * 5
    whole = [(3, 16, 64), (16, 16, 64), (16, 16, 64), (16, 32, 16), (32, 32, 16), (32, 32, 16), (32, 32, 16)]
    whole += [(32, 64, 4), (64, 64, 4)]
    assert metrics["macs_before"] == sum(9 * a * b * size for a, b, size in whole) + 64 * 5
    norms = 2 * sum(b for _, b, _ in convolutions)
    assert metrics["parameters_after"] == sum(9 * a * b for a, b, _ in convolutions) + norms + 40 * 5 + 5
    whole_stream = "16 channels at half the ratio 0.4, as a residual stream, round to 16 with channel multiple 8"
    assert metrics["left_whole"] == [
        "left whole: layer 'linear' because its channels are a network output",
        f"left whole: layer 'conv' because {whole_stream}",
        f"left whole: layer 'blocks.1.conv2' because {whole_stream}",
    ]
    for name, value in result.module.named_parameters():
        if name.endswith("weight") and value.dim() == 4:
            assert value.shape[0] % 8 == 0
    assert (result.inputs, result.outputs, result.history) == (resnet.inputs, resnet.outputs, ())


def test_metrics_are_json_and_rebuild_the_network(resnet: Model, tmp_path: Path) -> None:
    result, metrics = Prune(ratio=0.5, importance="l2")(resnet, Context(calibrate=samples(tmp_path, 40)))

    read = msgspec.json.decode(msgspec.json.encode(metrics))
    structure = msgspec.convert(read["structure"], Structure)
    again = apply_structure(resnet.module, resnet.example_inputs, structure)
    again.load_state_dict(result.module.state_dict())

    assert [group["kept"] for group in read["groups"]] == [len(group.kept) for group in structure.groups.values()]
    assert torch.equal(again(*resnet.example_inputs), result.module(*resnet.example_inputs))


def test_the_least_important_filters_go(resnet: Model) -> None:
    _, metrics = Prune(ratio=0.5)(resnet, Context())

    structure = msgspec.convert(metrics["structure"], Structure)
    norms = resnet.module.get_parameter("blocks.0.conv1.weight").abs().sum((1, 2, 3))
    assert structure.groups["blocks.0.conv1"].kept == tuple(sorted(norms.topk(8).indices.tolist()))


def test_input_model_is_untouched(resnet: Model, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in resnet.module.state_dict().items()}
    versions = [value._version for value in (*resnet.module.parameters(), *resnet.module.buffers())]

    Prune(ratio=0.5)(resnet, Context(train=samples(tmp_path, 16)))

    assert all(torch.equal(value, before[name]) for name, value in resnet.module.state_dict().items())
    assert [value._version for value in (*resnet.module.parameters(), *resnet.module.buffers())] == versions


def test_two_runs_agree(resnet: Model, tmp_path: Path) -> None:
    data = samples(tmp_path, 64)
    (one, first), (other, second) = (Prune(ratio=0.3)(resnet, Context(calibrate=data)) for _ in range(2))

    assert first == second
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    )


def test_statistics_are_measured_on_training_samples_first(resnet: Model, tmp_path: Path) -> None:
    train, calibrate = samples(tmp_path, 33), samples(tmp_path, 40, seed=1)

    stale, said_stale = Prune(ratio=0.5)(resnet, Context())
    fresh, said_train = Prune(ratio=0.5)(resnet, Context(train=train, calibrate=calibrate))
    _, said_calibrate = Prune(ratio=0.5)(resnet, Context(calibrate=calibrate))

    assert said_train["recalibration"] == {"data": "--train", "samples": 32}  # the 33rd would be a batch of one
    assert said_calibrate["recalibration"] == {"data": "--calibrate", "samples": 40}
    assert said_stale["recalibration"] == {
        "skipped": "no training or calibration samples; batch-norm statistics are those before pruning"
    }
    inputs = torch.from_numpy(next(train.batches(32)).inputs[0])
    first = torch.nn.functional.conv2d(inputs, fresh.module.get_parameter("conv.weight"), padding=1)
    expected = first.mean((0, 2, 3))  # atol: float32 sums in another order
    torch.testing.assert_close(fresh.module.get_buffer("bn.running_mean"), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(stale.module.get_buffer("bn.running_mean"), expected, atol=1e-2)


def test_what_cut_channels_carried_is_made_up_for(resnet: Model, tmp_path: Path) -> None:
    data, unseen = samples(tmp_path, 256), torch.from_numpy(next(samples(tmp_path, 64, seed=2).batches(64)).inputs[0])

    plain, said_plain = Prune(ratio=0.5)(resnet, Context())
    repaired, said = Prune(ratio=0.5)(resnet, Context(calibrate=data))

    assert said_plain["compensation"] == {
        "skipped": "no training or calibration samples; what cut channels carried is lost"
    }
    compensation = said["compensation"]
    assert isinstance(compensation, dict)
    assert (compensation["data"], compensation["samples"]) == ("--calibrate", 256)
    assert compensation["layers"] >= 5
    only_norms = recalibrate_batch_norm(plain.module, (batch.inputs for batch in data.batches(32)))
    with torch.no_grad():
        exact = resnet.module(unseen)
        errors = [float((cut(unseen) - exact).square().mean()) for cut in (only_norms, repaired.module)]
    assert errors[1] < 0.9 * errors[0]  # random weights: channels have little in common


def test_at_most_512_samples_spread_over_the_data(resnet: Model, tmp_path: Path) -> None:
    x = np.zeros((1024, *PICTURE), np.float32)
    x[512:] = 1.0  # sorted by class: the first 512 alone would be all zeros
    np.savez(tmp_path / "sorted.npz", x=x)

    result, metrics = Prune(ratio=0.5)(resnet, Context(calibrate=open_dataset(str(tmp_path / "sorted.npz"))))

    assert metrics["recalibration"] == {"data": "--calibrate", "samples": 512}
    weight = result.module.get_parameter("conv.weight")
    ones = torch.nn.functional.conv2d(torch.ones(1, *PICTURE), weight, padding=1).mean((0, 2, 3))
    torch.testing.assert_close(result.module.get_buffer("bn.running_mean"), ones / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Prune(ratio=0.0), "ratio is 0.0; it must be above 0 and below 1"),
        (Prune(ratio=1.0), "ratio is 1.0"),
        (Prune(ratio=-0.1), "ratio is -0.1"),
        (Prune(ratio=float("nan")), "ratio is nan"),
        (Prune(ratio=0.5, channel_multiple=0), "channel_multiple is 0; it must be at least 1"),
        (
            Prune(ratio=0.5, importance="l11"),
            r"unknown importance 'l11'; known: l1, l2, fpgm, group, bn, taylor, activation, reconstruction, auto"
            r" \(did you mean l1\?\)",
        ),
    ],
)
def test_bad_options_are_refused(resnet: Model, stage: Prune, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage(resnet, Context())


def test_samples_of_another_shape_are_refused(resnet: Model, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--train: samples of shape \(\(3, 4, 4\),\); the network takes \(\(3, 8, 8\),\)"
    ):
        Prune(ratio=0.5)(resnet, Context(train=samples(tmp_path, 8, shape=(3, 4, 4))))


def test_nothing_to_prune_says_why() -> None:
    with pytest.raises(
        StageError, match=r"nothing can be cut from this network: left whole: layer 'weight' because its channels are a"
    ):
        Prune(ratio=0.5)(model_of(nn.Conv2d(3, 64, 3).eval(), PICTURE), Context())
    with pytest.raises(StageError, match="it has no convolution or linear layer"):
        Prune(ratio=0.5)(model_of(nn.ReLU().eval(), PICTURE), Context())
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(
        StageError, match=r"layer '0' because 8 channels at ratio 0\.5 round to 8 with channel multiple 8"
    ):
        Prune(ratio=0.5)(model_of(small.eval(), PICTURE), Context())


def test_static_batch_and_missing_norm_are_told() -> None:
    _, metrics = Prune(ratio=0.5)(model_of(randomised(NETWORKS["two_by_two"][0](), 0), PICTURE, (1, 8, 8)), Context())
    assert "skipped" in metrics["recalibration"]  # type: ignore[operator]  # a dict
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    _, metrics = Prune(ratio=0.5)(model_of(plain.eval(), PICTURE), Context())
    assert metrics["recalibration"] == {"skipped": "the network has no batch norm"}


def test_static_batch_keeps_its_statistics(tmp_path: Path) -> None:
    model = model_of(randomised(PaddedResNet(), 0), PICTURE, dynamic=False)

    _, metrics = Prune(ratio=0.5, channel_multiple=4)(model, Context(calibrate=samples(tmp_path, 8)))

    assert metrics["recalibration"] == {"skipped": "the network takes batches of one only"}


def test_pruned_network_is_smaller_when_exported(resnet: Model) -> None:
    result, _ = Prune(ratio=0.5)(resnet, Context())

    again = traced(result.module, inputs_of("padded_resnet"))

    with torch.no_grad():
        torch.testing.assert_close(again(*resnet.example_inputs), result.module(*resnet.example_inputs))
    assert again.get_parameter("linear.weight").shape == (5, 32)


def test_resnet20_has_1_6_times_fewer_macs_at_ratio_0_4(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(shared_data))
    sys.modules.pop("zoo", None)
    model = model_of(__import__("zoo").resnet20_jpeg(), (3, 32, 32))

    _, metrics = Prune(ratio=0.4)(model, Context())

    assert metrics["macs_before"] == 40_551_040
    assert metrics["macs_before"] / metrics["macs_after"] > 1.6  # type: ignore[operator]  # numbers; 3.38 in fact


def labelled(folder: Path, labels: list[int] | None, count: int = 24) -> Dataset:
    rng = np.random.default_rng(3)
    arrays = {"x": rng.normal(1, 2, (count, *PICTURE)).astype(np.float32)}
    if labels is not None:
        arrays["y"] = np.resize(np.array(labels), count)
    np.savez(folder / "labelled.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    return open_dataset(str(folder / "labelled.npz"))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], None])
def test_taylor_takes_gradients_on_samples_with_labels_or_without(
    resnet: Model, tmp_path: Path, labels: list[int] | None
) -> None:
    before = {name: value.clone() for name, value in resnet.module.state_dict().items()}
    context = Context(calibrate=labelled(tmp_path, labels))
    result, metrics = Prune(ratio=0.5, importance="taylor")(resnet, context)
    by_norm, _ = Prune(ratio=0.5)(resnet, context)
    assert metrics["macs_after"] < 0.6 * metrics["macs_before"]  # type: ignore[operator]  # numbers
    again, _ = Prune(ratio=0.5, importance="taylor")(resnet, context)
    first, second, other = (
        torch.cat([value.flatten() for value in network.module.parameters()]) for network in (result, again, by_norm)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)  # other filters stay
    assert all(torch.equal(value, before[name]) for name, value in resnet.module.state_dict().items())


def test_taylor_refuses_samples_that_do_not_fit(resnet: Model, tmp_path: Path) -> None:
    stage = Prune(ratio=0.5, importance="taylor")
    with pytest.raises(ConfigError, match="taylor needs samples"):
        stage(resnet, Context())
    with pytest.raises(ConfigError, match="has label 9, the network has 5 classes"):
        stage(resnet, Context(calibrate=labelled(tmp_path, [0, 9])))
    with pytest.raises(ConfigError, match="--calibrate: samples of shape"):
        stage(resnet, Context(calibrate=samples(tmp_path, 8, shape=(3, 4, 4))))


def test_taylor_scores_a_network_without_classes_by_its_outputs(tmp_path: Path) -> None:
    pictures = model_of(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval(), PICTURE)
    _, metrics = Prune(ratio=0.5, importance="taylor")(pictures, Context(calibrate=labelled(tmp_path, None)))
    assert metrics["importance"]["loss"] == "distance to the unpruned outputs"  # type: ignore[index]  # JSON
