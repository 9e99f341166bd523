"""A client of `/v1/files` and `/v1/batches`."""

import json
from collections.abc import Iterable
from time import monotonic, sleep
from typing import Any, Final, Self, TypeAlias

import httpx

from benchmarks.live.gateway_process import API_KEY

TIMEOUT_S: Final = 1_800.0
POLL_S: Final = 0.5  # a look costs milliseconds of the cores that the job uses
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})

BatchLine: TypeAlias = dict[str, Any]


def completion_line(custom_id: str, model: str, prompt: str | list[int], tokens: int) -> BatchLine:
    """A line that asks for a greedy completion of at most `tokens` tokens."""
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0},
    }


class BatchClient:
    """Uploads jobs of completions, and follows them. RuntimeError if one fails."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {API_KEY}"}, timeout=TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def model(self) -> str:
        """The name of the served model."""
        return str(self._get("/v1/models")["data"][0]["id"])

    def upload(self, lines: Iterable[BatchLine]) -> str:
        """The id of an uploaded file of these lines."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        made = self._post(
            "/v1/files", files={"file": ("job.jsonl", text)}, data={"purpose": "batch"}
        )
        return str(made["id"])

    def create(self, file_id: str) -> str:
        """The id of a batch of an uploaded file."""
        made = self._post(
            "/v1/batches",
            json={
                "input_file_id": file_id,
                "endpoint": "/v1/completions",
                "completion_window": "24h",
            },
        )
        return str(made["id"])

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch."""
        self._post(f"/v1/batches/{batch_id}/cancel")

    def ended(self, batch_id: str) -> dict[str, Any]:
        """The batch once it has ended."""
        end = monotonic() + TIMEOUT_S
        while (batch := self._get(f"/v1/batches/{batch_id}"))["status"] not in ENDED:
            if monotonic() > end:
                raise RuntimeError(f"the batch did not end within {TIMEOUT_S:g} s")
            sleep(POLL_S)
        return batch

    def wait_for_outcomes(self, batch_id: str) -> None:
        """Wait until the first line is answered."""
        end = monotonic() + TIMEOUT_S
        while not (batch := self._get(f"/v1/batches/{batch_id}"))["request_counts"]["completed"]:
            if batch["status"] in ENDED or monotonic() > end:
                raise RuntimeError(f"no line of the batch is answered: {batch['status']}")
            sleep(POLL_S)

    def status(self, batch_id: str) -> str:
        """The batch's status."""
        return str(self._get(f"/v1/batches/{batch_id}")["status"])

    def answers(self, batch: dict[str, Any]) -> dict[str, int]:
        """The tokens of each answer of a completed batch, by custom id."""
        if batch["status"] != "completed" or not batch["output_file_id"]:
            raise RuntimeError(f"the batch ended as {batch['status']}: {batch.get('errors')}")
        content = self._http.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status()
        lines = map(json.loads, content.text.splitlines())
        return {
            line["custom_id"]: line["response"]["body"]["usage"]["completion_tokens"]
            for line in lines
        }

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(path).raise_for_status().json()
        return found

    def _post(self, path: str, **content: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._http.post(path, **content).raise_for_status().json()
        return made
