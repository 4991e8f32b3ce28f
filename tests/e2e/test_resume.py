"""Builds again: nothing is done twice, a killed or interrupted build leads to the same bytes, two at once do not clash.

`test_killed_build_ends_in_the_same_bytes` kills three builds; EDGEPORT_KILLS=20 makes it twenty, as issue 2 asks for.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_case import NETWORKS, ROOT, edgeport, environment, files_of, target_or_skip, write_samples

if TYPE_CHECKING:
    from e2e_builds import Build

pytest_plugins = ("e2e_builds",)
pytestmark = pytest.mark.slow

TIMED = {"report.json", "steps.svg"}  # hold latencies, which no two measurements share


@dataclass(frozen=True)
class Small:
    """A build of every stage that takes a few seconds: its command, and how an undisturbed one ended."""

    folder: Path
    arguments: tuple[str, ...]
    seconds: float
    files: dict[str, str]


def model_files(folder: Path) -> dict[str, str]:
    """Return path -> digest of everything that has to be the same in every build, temporary files too."""
    return {name: sha for name, sha in files_of(folder).items() if name not in TIMED}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the small network pruned, distilled and in int8 for `cpu`."""
    target_or_skip("cpu")
    folder = tmp_path_factory.mktemp("small")
    for name, seed in (("calibrate", 0), ("evaluate", 1), ("train", 2)):
        write_samples(folder / f"{name}.npz", {"x": (64, 3, 12, 12)}, classes=4, seed=seed)
    data = [f"--{name}={name}.npz" for name in ("calibrate", "evaluate", "train")]
    stages = ["--prune=0.4", "--distill=3", "--max-drop=100"]
    arguments = ("build", f"{NETWORKS}:small", "--target=cpu", *data, *stages)
    start = time.perf_counter()
    run = edgeport(*arguments, "--output", "out", store=folder / "store", cwd=folder)
    seconds = time.perf_counter() - start
    assert run.code in {0, 6}, run.err  # random labels and weights: only the bytes are of interest here
    return Small(folder=folder, arguments=arguments, seconds=seconds, files=model_files(folder / "out"))


def start(small: Small, output: Path, store: Path) -> subprocess.Popen[str]:
    """Start the small build in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgeport", *small.arguments, "--output", str(output)],
        env=environment(store),
        cwd=small.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_rebuild_runs_no_stage_and_gives_the_same_bytes(demo_build: Build, tmp_path: Path) -> None:
    before = files_of(demo_build.store / "entries")
    run = demo_build.again(output=tmp_path / "out")
    assert run.code == 0, run.err
    assert files_of(demo_build.store / "entries") == before
    assert re.search(r"^(trace|prune|distill|calibrate|evaluate)", run.err, re.MULTILINE) is None, run.err
    assert files_of(tmp_path / "out") == files_of(
        demo_build.output
    )  # the report too: figures are kept, not taken again


def test_two_empty_stores_give_the_same_bytes(demo_build: Build, tmp_path: Path) -> None:
    run = demo_build.again(output=tmp_path / "out", store=tmp_path / "other store")
    assert run.code == 0, run.err
    assert model_files(tmp_path / "out") == model_files(demo_build.output)


def test_another_folder_gives_the_same_bytes(small: Small, tmp_path: Path) -> None:
    """The place of network, data and store decides nothing."""
    for name in ("calibrate.npz", "evaluate.npz", "train.npz"):
        (tmp_path / name).write_bytes((small.folder / name).read_bytes())
    (tmp_path / NETWORKS.name).write_bytes(NETWORKS.read_bytes())
    arguments = ("build", f"{NETWORKS.name}:small", *small.arguments[2:], "--output", "out")
    run = edgeport(*arguments, store=tmp_path / "store", cwd=tmp_path)
    assert run.code in {0, 6}, run.err
    assert model_files(tmp_path / "out") == small.files


def test_changed_option_runs_only_what_depends_on_it(small: Small, tmp_path: Path) -> None:
    store = small.folder / "store"
    arguments = (*small.arguments, "--calibration=percentile", "--output", str(tmp_path / "out"))
    run = edgeport(*arguments, store=store, cwd=small.folder)
    assert run.code in {0, 6}, run.err
    assert re.search(r"^(trace|prune|distill)", run.err, re.MULTILINE) is None, run.err
    assert re.search(r"^calibrate", run.err, re.MULTILINE)
    found = model_files(tmp_path / "out")
    assert found["cpu/model-float.onnx"] == small.files["cpu/model-float.onnx"]


def test_killed_build_ends_in_the_same_bytes(small: Small, tmp_path: Path) -> None:
    """SIGKILL at random moments (seeded), each time into a fresh store; then the same command again, undisturbed."""
    moments = random.Random(7)
    for number in range(int(os.environ.get("EDGEPORT_KILLS", "3"))):
        store, output = tmp_path / f"store{number}", tmp_path / f"out{number}"
        process = start(small, output, store)
        after = moments.uniform(0.1, 1.0) * small.seconds
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        left = {name for name in files_of(output) if not name.startswith(".edgeport-")}
        assert "report.json" not in left or left == {*small.files, *TIMED}
        run = edgeport(*small.arguments, "--output", output, store=store, cwd=small.folder)
        assert run.code in {0, 6}, run.err
        assert model_files(output) == small.files, f"killed after {after:.2f} s"
        assert list((store / "tmp").iterdir()) == []


@pytest.mark.parametrize("moment", [0.03, 0.3, 0.6])
def test_interrupted_build_says_so_and_goes_on(small: Small, tmp_path: Path, moment: float) -> None:
    """Ctrl-C: 130, one line, no traceback; the next run ends in the undisturbed bytes."""
    store, output = tmp_path / "store", tmp_path / "out"
    process = start(small, output, store)
    time.sleep(max(0.15, moment * small.seconds))  # before that the interpreter itself is still starting
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode in {0, 6} and moment > 0.5:
        pytest.skip("the build had ended before it was interrupted")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("edgeport: interrupted")
    assert out == ""
    assert files_of(output) == {}
    run = edgeport(*small.arguments, "--output", output, store=store, cwd=small.folder)
    assert run.code in {0, 6}, run.err
    assert model_files(output) == small.files


def test_two_builds_at_once_share_a_store(small: Small, tmp_path: Path) -> None:
    store = tmp_path / "store"

    def run(name: str) -> dict[str, str]:
        done = edgeport(*small.arguments, "--output", tmp_path / name, store=store, cwd=small.folder)
        assert done.code in {0, 6}, done.err
        return model_files(tmp_path / name)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ["first", "second"])) == [small.files, small.files]


def test_two_builds_at_once_into_one_folder_leave_one_whole_build(small: Small, tmp_path: Path) -> None:
    store, output = small.folder / "store", tmp_path / "out"
    with ThreadPoolExecutor(2) as pool:
        arguments = (*small.arguments, "--output", str(output))
        runs = list(pool.map(lambda _: edgeport(*arguments, store=store, cwd=small.folder), range(2)))
    assert [run.code in {0, 6} for run in runs] == [True, True], [run.err for run in runs]
    assert model_files(output) == small.files
    assert (output / "report.json").is_file()


def test_files_of_an_earlier_build_do_not_stay(small: Small, tmp_path: Path) -> None:
    output, store = tmp_path / "out", small.folder / "store"
    (output / "cpu").mkdir(parents=True)
    for name in ("cpu/labels.txt", "cpu/model.tflite", "cpu/notes of mine.txt"):
        (output / name).write_text("old")
    run = edgeport(*small.arguments, "--output", output, store=store, cwd=small.folder)
    assert run.code in {0, 6}, run.err
    found = model_files(output)
    assert found.pop("cpu/notes of mine.txt")
    assert found == small.files


def test_checkout_is_what_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import edgeport; print(edgeport.__file__)"],
        env=environment(Path("unused")),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(ROOT)
