import json
import math

import pytest

from runners import record
from runners.record import RecordWriter, read_last_line, read_record, read_status


def write_run(folder, rows=3, status="completed"):
    writer = RecordWriter.start(folder, {"key": "k", "replicas": [{"seed": 0}]})
    for step in range(rows):
        writer.write({"step": step, "loss": [0.5, math.nan, math.inf]})
    if status:
        writer.close(status, step=rows)


def test_round_trip_with_numbers_that_json_does_not_know(tmp_path):
    write_run(tmp_path)
    found = read_record(tmp_path)
    assert found.provenance["key"] == "k"
    assert [row["step"] for row in found.rows] == [0, 1, 2]
    assert found.rows[0]["loss"] == [0.5, None, None]
    assert found.status == {"status": "completed", "step": 3}
    for line in (tmp_path / record.FILE_NAME).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_cut_at_every_byte_is_readable_and_never_finished(tmp_path):
    write_run(tmp_path)
    path = tmp_path / record.FILE_NAME
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read_status(tmp_path) is None
        found = read_record(tmp_path)
        if size < first_line:
            assert found is None
        else:
            assert found.status is None
            assert len(found.rows) == whole[first_line:size].count(b"\n")
            assert bool(found.damaged) == (whole[:size][-1:] != b"\n")


def test_a_damaged_line_in_the_middle_is_named_and_the_rest_is_read(tmp_path):
    write_run(tmp_path)
    path = tmp_path / record.FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00\xff garbage\n"
    path.write_bytes(b"".join(lines))
    found = read_record(tmp_path)
    assert found.damaged == [3]
    assert [row["step"] for row in found.rows] == [0, 2]


def test_last_line_longer_than_the_read_window(tmp_path):
    write_run(tmp_path, status=None)
    writer = RecordWriter.resume(tmp_path, (tmp_path / record.FILE_NAME).stat().st_size)
    writer.close("failed", traceback="x" * 100_000)
    assert read_last_line(tmp_path)["traceback"] == "x" * 100_000
    assert read_status(tmp_path) == "failed"


def test_resume_cuts_what_came_after_the_checkpoint(tmp_path):
    writer = RecordWriter.start(tmp_path, {"key": "k"})
    writer.write({"step": 0})
    size = writer.size()
    writer.write({"step": 1})
    writer.close("interrupted")
    writer = RecordWriter.resume(tmp_path, size)
    writer.write({"step": 1, "again": True})
    writer.close("completed")
    assert read_record(tmp_path).rows == [{"step": 0}, {"step": 1, "again": True}]


def test_a_line_for_which_there_is_no_room_leaves_nothing(tmp_path):
    """A disk that fills up takes the first bytes of it."""
    writer = RecordWriter.start(tmp_path, {"key": "k"})
    writer.write({"step": 0})
    before = (tmp_path / record.FILE_NAME).read_bytes()
    disk = writer._file

    class Full:
        tell, truncate, fileno = disk.tell, disk.truncate, disk.fileno
        written = False

        def write(self, data):
            if self.written:
                raise OSError("no room")
            self.written = True
            return disk.write(data[:5])

    writer._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="no room"):
        writer.write({"step": 1})
    assert (tmp_path / record.FILE_NAME).read_bytes() == before
    writer._file = disk
    writer.write({"step": 1})
    assert [row["step"] for row in read_record(tmp_path).rows] == [0, 1]


def test_rows_are_on_disk_before_a_checkpoint_counts_them_and_the_end_before_it_is_told(
    tmp_path, monkeypatch
):
    writer = RecordWriter.start(tmp_path, {"key": "k"})
    path, synced = tmp_path / record.FILE_NAME, []
    monkeypatch.setattr(record.os, "fsync", lambda number: synced.append(path.stat().st_size))
    writer.write({"step": 0})
    assert writer.size() == synced[-1] == path.stat().st_size
    writer.close("completed")
    assert synced[-1] == path.stat().st_size > synced[0]


def test_start_replaces_an_older_record(tmp_path):
    write_run(tmp_path)
    RecordWriter.start(tmp_path, {"key": "new"})
    assert read_record(tmp_path).rows == []
    assert read_status(tmp_path) is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"

    def broken():
        yield b"half"
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        record.write_atomically(path, broken())
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"the old one")
    with path.open("rb") as reader:
        with pytest.raises(OSError, match="no room"):
            record.write_atomically(path, broken())
        assert path.read_bytes() == b"the old one"
        record.write_atomically(path, [b"the ", b"new one"])
        assert reader.read() == b"the old one"  # who has begun to read it reads it to its end
    assert path.read_bytes() == b"the new one" and list(tmp_path.iterdir()) == [path]


def test_nothing_there(tmp_path):
    assert read_record(tmp_path) is None
    assert read_status(tmp_path / "missing") is None


def test_a_median_that_is_no_number_is_shown_as_a_dash():
    assert record.median_text([None], ".4g") == record.median_text([math.nan, 1.0], ".4g") == "-"
    assert record.median_text([1234.5, None, 3.0], ",.6g") == "1,234.5"
