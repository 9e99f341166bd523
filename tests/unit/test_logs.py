"""The alarms that the page shows, and the thread that writes the log."""

import os
import threading

import pytest
from structlog.testing import capture_logs

from gateway import logs
from gateway.logs import MAX_ALARMS, MAX_FIELD, LogThread, RecentAlarms
from tests.conftest import PATIENCE_S


def test_warnings_are_kept_with_their_count_and_newest_fields() -> None:
    alarms = RecentAlarms()
    for reason in ("first", "second"):
        alarms(None, "", {"event": "engine_lost", "level": "warning", "reason": reason})
    alarms(None, "", {"event": "fine", "level": "info"})
    (alarm,) = alarms.newest(10)
    assert (alarm.event, alarm.count, alarm.fields) == ("engine_lost", 2, {"reason": "second"})


def test_alarms_are_bounded_in_number_and_size() -> None:
    alarms = RecentAlarms()
    for number in range(MAX_ALARMS + 5):
        fields = {f"field {place}": "x" * 10_000 for place in range(100)}
        alarms(None, "", {"event": f"event {number}", "level": "error", **fields})
    kept = alarms.newest(1_000)
    assert len(kept) == MAX_ALARMS
    assert kept[0].event == f"event {MAX_ALARMS + 4}"
    assert sum(map(len, kept[0].fields.values())) <= 8 * MAX_FIELD


def test_the_event_is_passed_on_unchanged() -> None:
    event = {"event": "e", "level": "critical", "exc_info": True}
    assert RecentAlarms()(None, "", event) is event


def test_log_that_is_not_read_stops_no_one_and_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 100)
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as file:
        log = LogThread(file)
        for number in range(5_000):  # a pipe holds 64 KiB
            log.write(f"{number} {'x' * 100}\n")
        assert log._lines.qsize() <= 100
        assert not log.drain(0.0)
        read = list[str]()

        def read_all() -> None:
            with os.fdopen(reads) as lines:
                read.extend(lines)

        reader = threading.Thread(target=read_all)
        with capture_logs() as logged:
            reader.start()
            assert log.drain(PATIENCE_S)
    reader.join(PATIENCE_S)
    numbers = [int(line.split()[0]) for line in read]
    assert numbers == list(range(len(numbers)))
    assert logged == [
        {"event": "log_lines_dropped", "lines": 5_000 - len(numbers), "log_level": "warning"}
    ]
