from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gateway.history.disk import spool as spool_module
from gateway.history.disk.spool import Spool, line_of, read_sealed
from gateway.history.late_embeddings import LateEmbeddings, merged
from gateway.history.record import Record


def test_sealed_files_hold_every_record_in_order(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    spool = Spool(tmp_path)
    records = [a_record(generation_tokens=tokens) for tokens in (1, 2, 3)]
    spool.append([line_of(records[0])])
    spool.seal()
    for record in records[1:]:
        spool.append([line_of(record)])
    assert [record for path in spool.seal() for record in read_sealed(path)] == records


def test_records_of_a_killed_process_are_found(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    left = a_record()
    dead = Spool(tmp_path)
    dead.append([line_of(left)])  # never sealed
    after = Spool(tmp_path)
    after.append([line_of(a_record())])
    first, second = after.seal()
    assert read_sealed(first) == [left]
    assert second != first
    dead.seal()


def test_line_cut_off_by_a_power_loss_does_not_hide_the_others(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    spool = Spool(tmp_path)
    whole = a_record()
    spool.append([line_of(whole)])
    (path,) = spool.seal()
    path.write_bytes(path.read_bytes() * 2)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_sealed(path) == [whole]
    assert path.with_suffix(".aside").stat().st_size > 0


def test_record_of_an_earlier_release_is_read(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    record = a_record()
    known = msgspec.to_builtins(record)
    defaults = {field.name for field in msgspec.structs.fields(Record) if not field.required}
    older = {name: value for name, value in known.items() if name not in defaults}
    (tmp_path / "000000000001.jsonl").write_bytes(msgspec.json.encode(older) + b"\n")
    (sealed,) = Spool(tmp_path).seal()
    assert "queue_ahead" in defaults
    assert read_sealed(sealed) == [record]


def test_late_embeddings_lie_between_records(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    spool, record = Spool(tmp_path), a_record()
    late = LateEmbeddings(
        arrived_at=record.arrived_at,
        id=record.id,
        embedder="e",
        text=None,
        instruction=None,
        user_input=b"\x00\x3c",
    )
    for line in (record, late):
        spool.append([line_of(line)])
    (sealed,) = spool.seal()
    assert read_sealed(sealed) == [record, late]
    assert merged([record, late]) == ([late.added_to(record)], [])
    assert merged([late, record]) == ([record], [late])


def test_line_that_cannot_be_read_is_set_aside_once_however_often_the_file_is_read(
    tmp_path: Path, a_record: Callable[..., Record]
) -> None:
    spool, counted = Spool(tmp_path), list[int]()
    spool.append([line_of(a_record())])
    (path,) = spool.seal()
    path.write_bytes(path.read_bytes() + b'{"not": "a record"}\n\xff\r{}\n')
    for _ in range(3):
        assert len(read_sealed(path, counted.append)) == 1
    assert path.with_suffix(".aside").read_bytes() == b'{"not": "a record"}\n\xff\r{}\n'
    assert counted == [2]


@pytest.mark.parametrize(
    "damage",
    [b'"model": "\xff\xfe"', b'"unknown": ' + b"[" * 5_000 + b"]" * 5_000],
    ids=["no text", "nested"],
)
def test_damaged_line_is_set_aside_and_the_others_are_read(
    tmp_path: Path, a_record: Callable[..., Record], damage: bytes
) -> None:
    spool, record = Spool(tmp_path), a_record()
    spool.append([line_of(record)])
    (path,) = spool.seal()
    path.write_bytes(b"{" + damage + b"}\n" + path.read_bytes())
    assert read_sealed(path) == [record]
    assert path.with_suffix(".aside").read_bytes() == b"{" + damage + b"}\n"


def test_files_of_others_are_left_alone(tmp_path: Path, a_record: Callable[..., Record]) -> None:
    (tmp_path / "copy of 1.jsonl").write_text("not ours")
    spool = Spool(tmp_path)
    spool.append([line_of(a_record())])
    assert [path.name for path in spool.seal()] == ["000000000001.jsonl"]


def test_a_file_is_small_enough_to_be_read_whole(
    tmp_path: Path, a_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many records come while the database is slow."""
    monkeypatch.setattr(spool_module, "FILE_LINES", 3)
    spool, records = Spool(tmp_path), [a_record() for _ in range(8)]
    for record in records:
        spool.append([line_of(record)])
    read = [read_sealed(path) for path in spool.seal()]
    assert [len(lines) for lines in read] == [3, 3, 2]
    assert [line for lines in read for line in lines] == records
