"""The store: whole entries or none, whoever is killed or writes at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeport import store as store_module
from edgeport.store import (
    KEEP_SECONDS,
    Store,
    atomic_path,
    copy_atomic,
    default_root,
    digest,
    file_digest,
    write_atomic,
)

KEY, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, key: str, text: str = "content", size: int = 0) -> Path:
    with store.put(key) as folder:
        (folder / "file").write_text(text + " " * size)
    found = store.get(key)
    assert found is not None
    return found


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "tmp").glob("*"))


START = """
import sys, time
from pathlib import Path
from edgeport.store import Store
store = Store(Path(sys.argv[1]))
"""


def killed(store: Store, code: str) -> None:
    """Run code with `store` in another process, up to the line `ready` that it prints, then kill that process."""
    command = [sys.executable, "-c", START + code, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_what_was_put_is_got(store: Store) -> None:
    assert store.get(KEY) is None
    with store.put(KEY) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"\0\1")
        assert store.get(KEY) is None  # not before the block has ended
    found = store.get(KEY)
    assert found is not None
    assert (found / "sub" / "file").read_bytes() == b"\0\1"
    assert store.get(OTHER) is None
    assert leftovers(store) == []


def test_looking_into_a_store_that_is_not_there_makes_nothing(store: Store) -> None:
    assert store.get(KEY) is None
    store.sweep()
    assert not store.root.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_block_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    def fail() -> None:
        with store.put(KEY) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert store.get(KEY) is None
    assert leftovers(store) == []
    put(store, KEY)  # and the key is not spoiled


def test_killed_writer_leaves_what_sweep_removes(store: Store) -> None:
    code = f"""
with store.put({KEY!r}) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""
    killed(store, code)
    assert store.get(KEY) is None
    assert [file.name for folder in leftovers(store) for file in folder.iterdir()] == ["half"]
    store.sweep()
    assert leftovers(store) == []
    assert (put(store, KEY) / "file").read_text() == "content"


def test_sweep_leaves_what_a_running_process_writes(store: Store) -> None:
    with store.put(KEY) as folder:
        (folder / "file").write_text("content")
        store.sweep()
        assert (folder / "file").is_file()
    assert store.get(KEY) is not None


def test_scratch_survives_a_kill_and_a_sweep_until_it_is_dropped(store: Store) -> None:
    code = f"""
(store.scratch({KEY!r}) / "checkpoint").write_text("epoch 3")
print("ready", flush=True)
time.sleep(60)
"""
    killed(store, code)
    store.sweep()
    assert (store.scratch(KEY) / "checkpoint").read_text() == "epoch 3"
    store.drop_scratch(KEY)
    assert list(store.scratch(KEY).iterdir()) == []
    store.drop_scratch(OTHER)  # nothing there


def test_workspace_is_removed(store: Store) -> None:
    with store.workspace() as folder:
        (folder / "in0.npy").write_text("data")
        assert folder.is_dir()
    assert not folder.exists()

    def fail() -> None:
        with store.workspace():
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        fail()
    assert leftovers(store) == []


def test_two_writers_of_one_key_both_succeed(store: Store) -> None:
    inside, errors = threading.Barrier(2), []

    def write(text: str) -> None:
        try:
            with store.put(KEY) as folder:
                (folder / "file").write_text(text)
                inside.wait(20)
        except BaseException as error:  # noqa: BLE001  # carried to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = store.get(KEY)
    assert found is not None
    assert (found / "file").read_text() in ("first", "second")
    assert [file.name for file in found.iterdir()] == ["file"]
    assert leftovers(store) == []


def test_two_processes_may_write_one_key(store: Store) -> None:
    code = f"""
with store.put({KEY!r}) as folder:
    (folder / "file").write_text("content")
    print("ready", flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", START + code, str(store.root)]
    processes = [subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
        assert process.returncode == 0
    found = store.get(KEY)
    assert found is not None
    assert (found / "file").read_text() == "content"


def aged(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_sweep_drops_the_oldest_when_the_store_has_outgrown_its_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LARGEST_BYTES", 2500)
    entries = {name: put(store, name * 40, size=1000 - 7) for name in "cdef"}  # 1000 bytes each, 1500 too many
    for name, days in (("d", 9), ("c", 5), ("f", 3)):
        aged(entries[name], days * KEEP_SECONDS)
    store.sweep()
    assert [name for name, entry in entries.items() if entry.is_dir()] == ["e", "f"]  # d and c were the oldest


def test_sweep_keeps_young_entries_however_large(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGEST_BYTES", 10)
    young, old = put(store, KEY, size=1000), put(store, OTHER, size=1000)
    aged(young, KEEP_SECONDS - 60)
    aged(old, KEEP_SECONDS + 60)
    store.sweep()
    assert (young.is_dir(), old.is_dir()) == (True, False)


def test_sweep_keeps_old_entries_while_there_is_room(store: Store) -> None:
    entry = put(store, KEY)
    aged(entry, 400 * KEEP_SECONDS)
    store.sweep()
    assert entry.is_dir()


def test_reading_an_entry_makes_it_young(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGEST_BYTES", 10)
    aged(put(store, KEY, size=1000), 5 * KEEP_SECONDS)
    assert store.get(KEY) is not None
    store.sweep()
    assert store.get(KEY) is not None


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "out" / "report.json"
    write_atomic(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent  # the same file system: a rename, not a copy
    assert target.read_text() == "new"
    assert [file.name for file in target.parent.iterdir()] == ["report.json"]


def test_failed_replacement_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.tflite"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_copy_of_a_missing_file_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    with pytest.raises(FileNotFoundError):
        copy_atomic(tmp_path / "missing", target)
    assert target.read_text() == "old"
    (tmp_path / "source").write_bytes(b"\0new")
    copy_atomic(tmp_path / "source", target)
    assert target.read_bytes() == b"\0new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "source"]


def test_digest_depends_on_values_and_their_order() -> None:
    assert digest("a", {"x": 1, "y": [2.5, None]}) == digest("a", {"y": [2.5, None], "x": 1})
    different = [digest("a", "b"), digest("b", "a"), digest("ab"), digest(["a", "b"]), digest("a", "b", None)]
    assert len(set(different)) == len(different)


def test_digest_is_the_same_in_every_process() -> None:
    code = "from edgeport.store import digest; print(digest('trace', {'b': 1, 'a': [True, None]}, 0.1))"
    seeds = ("1", "2")
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in seeds
    }
    assert found == {digest("trace", {"a": [True, None], "b": 1}, 0.1)}


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_place_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPORT_STORE", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "chosen"
    monkeypatch.delenv("EDGEPORT_STORE")
    assert default_root() == tmp_path / "cache" / "edgeport"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "edgeport"


def test_sweep_drops_checkpoints_that_nobody_resumed_for_a_week(tmp_path: Path) -> None:
    store = Store(tmp_path)
    young, old = store.scratch("young"), store.scratch("old")
    week_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (week_ago, week_ago))

    store.sweep()

    assert young.is_dir()
    assert not old.exists()
