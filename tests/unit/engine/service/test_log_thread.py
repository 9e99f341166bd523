"""The thread that writes the log."""

import os
import subprocess
import sys
import threading

import pytest
from structlog.testing import capture_logs

from engine import log_thread
from engine.log_thread import LogThread
from tests.conftest import PATIENCE_S
from tests.unread_pipe import unread_pipe

LOGS_AND_ENDS = """
import sys
import structlog
from engine.service.logs import configure_logs

configure_logs("info")
structlog.get_logger().info("began")
print("printed", file=sys.stderr)
1 / 0
"""


def test_log_that_is_not_read_stops_no_one_and_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_thread, "MAX_WAITING", 100)
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as file:
        log = LogThread(file.fileno())
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


def test_process_whose_log_is_not_read_ends_with_its_own_code() -> None:
    with unread_pipe() as stderr:
        ended = subprocess.run(
            [sys.executable, "-c", LOGS_AND_ENDS], stderr=stderr, check=False, timeout=PATIENCE_S
        )
    assert ended.returncode == 1


def test_events_and_a_traceback_are_written_in_their_order() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOGS_AND_ENDS],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    lines = ended.stderr.splitlines()
    assert "began" in lines[0]
    assert lines[1] == "printed"
    assert lines[-1].startswith("ZeroDivisionError")
