"""The predictor's health, as a gateway on a real port reports it."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.diagnosis.finding import Finding
from gateway.diagnosis.predictor import check_predictor
from gateway.diagnosis.server import RunningServer
from gateway.settings import Settings

Report = Callable[..., dict[str, Finding]]


@pytest.fixture
def report() -> Iterator[Report]:
    """The findings on a gateway that reports these values."""
    pages: dict[str, str] = {}

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages[self.path].encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()

    def findings(
        *,
        predictor: str = "connected",
        version: str | None = "a-version",
        by_model: int = 0,
        by_app: int = 0,
        tau: float = float("nan"),
        coverage: float = float("nan"),
        untrusted: int = 0,
        fallback: bool = False,
        unusable: str | None = None,
    ) -> dict[str, Finding]:
        verdict = "untrained" if version is None else "fallback" if fallback else "model"
        health = {"predictor": predictor, "predictor_version": version, "predictions": verdict}
        pages["/health/ready"] = json.dumps(health | {"unusable_version": unusable})
        pages["/metrics"] = (
            "# TYPE lmaas_predictions counter\n"
            f'lmaas_predictions_total{{source="model"}} {by_model}\n'
            f'lmaas_predictions_total{{source="app"}} {by_app}\n'
            f"lmaas_prediction_tau {tau}\n"
            f"lmaas_prediction_coverage {coverage}\n"
            f'lmaas_policy_fallback{{reason="untrusted"}} {untrusted}\n'
        )
        running = RunningServer(1, "127.0.0.1", server.server_port)
        return {found.part: found for found in check_predictor(Settings(), running)}

    yield findings
    server.shutdown()
    serving.join()
    server.server_close()


def test_a_healthy_predictor_is_described(report: Report) -> None:
    found = report(by_model=300, by_app=20, tau=0.7, coverage=0.9)
    assert {each.status for each in found.values()} == {"ok"}
    assert found["predictions"].message == (
        "300 from model, 20 from app; τ 0.70, 90% within the 0.9 quantile"
    )


def test_a_new_gateway_has_nothing_to_complain_of(report: Report) -> None:
    found = report(version=None, by_app=5)
    assert {each.status for each in found.values()} == {"ok"}


def test_a_version_that_cannot_be_loaded_is_named(report: Report) -> None:
    found = report(unusable="another-version")["predictor"]
    assert (found.status, "another-version" in found.message) == ("warning", True)


def test_a_process_that_is_away_fails(report: Report) -> None:
    assert report(predictor="away")["predictor"].status == "failure"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"by_app": 200, "version": None}, "predictors train"),
        ({"by_app": 200, "fallback": True}, "lmaas_prediction_seconds"),
        ({"by_model": 200, "tau": 0.1, "coverage": 0.9, "untrusted": 1}, "predictors train"),
        ({"by_model": 200, "tau": 0.6, "coverage": 0.4}, "predictors train"),
    ],
)
def test_poor_predictions_are_a_warning(report: Report, given: Any, remedy: str) -> None:
    found = report(**given)["predictions"]
    assert (found.status, remedy in found.remedy) == ("warning", True)


def test_folder_without_an_embedder_is_a_failure(tmp_path: Path) -> None:
    settings = Settings(embedder=str(tmp_path))
    (found,) = check_predictor(settings, None)
    assert found.part == "predictor"
    assert f"LMAAS_EMBEDDER={tmp_path} is not the folder" in found.message
