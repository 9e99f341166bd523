"""The lines of output and error files, and the order in which jobs get their turn."""

import json
from datetime import UTC, datetime
from uuid import UUID

from gateway.history.requests import made_at
from gateway.jobs.batches.claims.claiming import RunningBatch, in_turn
from gateway.jobs.batches.output_lines import line_id, responded, unanswered
from models.base import new_id

NOW = datetime(2026, 11, 29, tzinfo=UTC)
BATCH = UUID(int=7)


def test_line_of_the_output_file_has_openais_form() -> None:
    request_id = line_id(BATCH, 3)
    line = responded(request_id, "a", 200, b'{"id":"chatcmpl-1"}')
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "id": f"batch_req_{request_id.hex}",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": request_id.hex,
            "body": {"id": "chatcmpl-1"},
        },
        "error": None,
    }


def test_line_without_a_response_says_why() -> None:
    line = json.loads(unanswered(line_id(BATCH, 1), None, "batch_expired", "too late"))
    assert line["response"] is None
    assert line["error"] == {"code": "batch_expired", "message": "too late"}


def test_request_of_a_line_has_the_time_of_its_batch() -> None:
    batch = new_id()
    request_id = line_id(batch, 3)
    assert (request_id.version, request_id.variant) == (7, batch.variant)
    assert made_at(request_id) == made_at(batch)


def test_request_of_a_line_has_the_same_id_in_every_attempt() -> None:
    assert line_id(BATCH, 1) == line_id(UUID(int=7), 1)
    assert len({line_id(UUID(int=n), k) for n in range(3) for k in range(3)}) == 9


def running(
    job: int, tenant: int, lines: int, *, share: float = 1.0, due_h: int = 24, waits: bool = True
) -> RunningBatch:
    return RunningBatch(
        id=UUID(int=job),
        tenant_id=UUID(int=tenant),
        share=share,
        left_s=3_600.0 * due_h,
        running=lines,
        waits=waits,
    )


def test_turns_go_by_running_lines_for_the_share_then_by_the_deadline() -> None:
    jobs = [
        running(1, 1, 10),
        running(2, 2, 15, share=2.0),
        running(3, 2, 0, share=2.0, due_h=1),
        running(4, 3, 30),
        running(5, 3, 1, waits=False),
    ]
    assert [job.id.int for job in in_turn(jobs)] == [3, 2, 1, 4]
