"""A training that is killed goes on where it was, and ends with the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distill_case import OPTIONS, Sleeper, images, perturbed, teacher
from safetensors.torch import load_file

from edgeport.stages.context import Context
from edgeport.stages.distill import CHECKPOINT
from edgeport.training.checkpoint import load_state
from edgeport.training.modes import tensors_of

NEVER = -1
SCRIPT = Path(__file__).with_name("distill_case.py")


def context(folder: Path, *, stop_at: int = NEVER, seed: int = 0) -> Context:
    progress = Sleeper(step=stop_at, interrupt=True)
    return Context(teachers=(teacher(),), train=images(folder), scratch=folder, progress=progress, seed=seed)


def undisturbed(folder: Path) -> dict[str, torch.Tensor]:
    model, metrics = OPTIONS(perturbed(teacher()), context(folder))
    assert metrics["resumed_from_epoch"] == 0
    return tensors_of(model.module)


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def run(folder: Path, step: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(SCRIPT), str(folder), str(step)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_distill_killed_in_the_third_epoch_resumes_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    victim = run(tmp_path / "killed", 13)  # 5 steps an epoch: in the middle of the third
    assert victim.stdout is not None
    assert victim.stdout.readline() == "asleep\n"
    victim.kill()
    assert victim.wait() == -9
    assert not (tmp_path / "killed" / "result").exists()
    second = run(tmp_path / "killed", NEVER)
    output, _ = second.communicate(timeout=300)
    assert (second.returncode, output) == (0, "resumed from 2\n")
    assert_same_bits(load_file(tmp_path / "killed" / "result"), undisturbed(tmp_path / "whole"))


@pytest.mark.parametrize(("stop_at", "resumed_from"), [(3, 0), (6, 1), (19, 3)])
def test_distill_interrupted_resumes_and_ends_with_the_same_bits(
    tmp_path: Path, stop_at: int, resumed_from: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        OPTIONS(perturbed(teacher()), context(tmp_path / "stopped", stop_at=stop_at))
    model, metrics = OPTIONS(perturbed(teacher()), context(tmp_path / "stopped"))
    assert metrics["resumed_from_epoch"] == resumed_from
    assert len(metrics["loss_per_epoch"]) == 4  # type: ignore[arg-type]  # metrics are JSON values
    assert_same_bits(tensors_of(model.module), undisturbed(tmp_path / "whole"))


def test_distill_after_a_finished_run_takes_its_result(tmp_path: Path) -> None:
    first = undisturbed(tmp_path)
    model, metrics = OPTIONS(perturbed(teacher()), context(tmp_path))
    assert metrics["resumed_from_epoch"] == 4
    assert_same_bits(tensors_of(model.module), first)


def test_distill_starts_over_when_anything_differs(tmp_path: Path) -> None:
    def resumed(folder: str, **changes: object) -> object:
        undisturbed(tmp_path / folder)
        options = replace(OPTIONS, **{key: value for key, value in changes.items() if key != "seed"})  # type: ignore[arg-type]  # checked at run time
        seed = changes.get("seed", 0)
        assert isinstance(seed, int)
        return options(perturbed(teacher()), context(tmp_path / folder, seed=seed))[1]["resumed_from_epoch"]

    assert resumed("rate", learning_rate=0.01) == 0
    assert resumed("seed", seed=1) == 0
    assert resumed("epochs", epochs=5) == 0  # the schedule depends on it


def test_distill_starts_over_for_another_student_teacher_or_data(tmp_path: Path) -> None:
    def resumed(folder: Path, amount: float, surroundings: Context) -> object:
        return OPTIONS(perturbed(teacher(), amount), surroundings)[1]["resumed_from_epoch"]

    undisturbed(tmp_path)
    same = context(tmp_path)
    assert resumed(tmp_path, 0.4, same) == 0
    undisturbed(tmp_path)
    assert resumed(tmp_path, 0.5, replace(same, teachers=(perturbed(teacher(), 0.1),))) == 0
    undisturbed(tmp_path)
    assert resumed(tmp_path, 0.5, replace(same, train=images(tmp_path / "more", 48))) == 0


def test_distill_starts_over_from_a_cut_off_checkpoint(tmp_path: Path) -> None:
    whole = undisturbed(tmp_path)
    path = tmp_path / CHECKPOINT.format("distill")
    path.write_bytes(path.read_bytes()[:-100])
    model, metrics = OPTIONS(perturbed(teacher()), context(tmp_path))
    assert metrics["resumed_from_epoch"] == 0
    assert_same_bits(tensors_of(model.module), whole)


def test_distill_leaves_one_checkpoint_and_no_temporary_file(tmp_path: Path) -> None:
    undisturbed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", CHECKPOINT.format("distill")]
    assert load_state(tmp_path / CHECKPOINT.format("distill"), "someone else's") is None


def test_distill_without_scratch_leaves_no_file(tmp_path: Path) -> None:
    OPTIONS(perturbed(teacher()), replace(context(tmp_path), scratch=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz"]
