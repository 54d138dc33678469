import shutil
import time

import numpy as np
import pytest

from tasks.rainbow import frame_log
from tasks.rainbow.frame_log import FrameLog
from tasks.task import CorruptState

SIZE, KEEP = 10, 50


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(frame_log, "CHUNK", 16)


def frame(i):
    return bytes((i * 7 + k) % 256 for k in range(SIZE))


def append(log, many):
    for _ in range(many):
        log.append(frame(log.count))


def read(log, state):
    """Number of each frame -> its bytes."""
    found = {}
    for first, content in log.resume(state):
        found |= {first + k: row.tobytes() for k, row in enumerate(content)}
    return found


def killed(log, folder):
    """The folder as a kill leaves it: whatever has reached the file system."""
    shutil.copytree(log.folder, folder)
    return FrameLog(folder, SIZE, KEEP)


@pytest.mark.parametrize("more", [0, 1, 3, 15, 16, 40, 200])
def test_what_was_saved_is_there_after_a_kill_and_nothing_else(tmp_path, more):
    log = FrameLog(tmp_path / "log", SIZE, KEEP)
    for i, many in enumerate((0, 5, 11, 16, 30, 100)):
        append(log, many)
        state = log.sync()
        append(log, more)
        other = killed(log, tmp_path / f"{i}")
        found = read(other, state)
        last = range(max(0, state["count"] - KEEP), state["count"])
        assert set(last) <= set(found) and max(found, default=-1) == state["count"] - 1
        assert all(content == frame(number) for number, content in found.items())
        append(other, 20)  # it goes on
        state = other.sync()
        found = read(killed(other, tmp_path / f"{i} again"), state)
        assert max(found) == state["count"] - 1
        assert all(content == frame(number) for number, content in found.items())


def test_a_state_that_was_never_saved_leaves_the_one_before_whole(tmp_path):
    log = FrameLog(tmp_path / "log", SIZE, KEEP)
    append(log, 70)
    saved = log.sync()
    append(log, 300)
    log.sync()  # killed before the checkpoint was in place
    found = read(killed(log, tmp_path / "killed"), saved)
    assert set(range(20, 70)) <= set(found)
    append(log, 300)
    log.sync(), log.sync()
    assert len(list(log.folder.iterdir())) <= KEEP // 16 + 2  # and does not grow for ever


@pytest.mark.parametrize("damage", ["missing", "short", "bit", "gone"])
def test_damage_is_named_before_anything_is_changed(tmp_path, damage):
    log = FrameLog(tmp_path / "log", SIZE, KEEP)
    append(log, 60)
    state = log.sync()
    victim = tmp_path / "log" / "000001.frames"
    if damage == "missing":
        victim.unlink()
    elif damage == "short":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "bit":
        content = bytearray(victim.read_bytes())
        content[33] ^= 1
        victim.write_bytes(content)
    else:
        shutil.rmtree(tmp_path / "log")
    other = FrameLog(tmp_path / "log", SIZE, KEEP)
    before = sorted(path.name for path in other.folder.iterdir())
    name = "000000.frames" if damage == "gone" else "000001.frames"
    with pytest.raises(CorruptState, match=name):
        list(other.resume(state))
    assert sorted(path.name for path in other.folder.iterdir()) == before and other.count == 0


def test_a_checkpoint_of_many_frames_has_little_left_to_write(tmp_path, monkeypatch):
    """Real sizes, fewer frames: what is left is at most one file, whatever came before."""
    monkeypatch.setattr(frame_log, "CHUNK", 4096)
    log = FrameLog(tmp_path, 84 * 84, 500_000)
    content = np.random.default_rng(0).bytes(84 * 84)
    for _ in range(9000):
        log.append(content)
    for done in log._pending:
        done.result()
    start = time.monotonic()
    state = log.sync()
    assert time.monotonic() - start < 2
    assert len(state["checksums"]) == 3
