from collections.abc import Callable

import pytest

from gateway.demo.sending import DemoResult


@pytest.fixture(scope="session")
def make_result() -> Callable[..., DemoResult]:
    """Makes a completed request; any field can be given."""

    def build(
        app: str = "spell",
        *,
        predicted: int = 10,
        actual: int = 10,
        response_s: float = 1.0,
        batch: str = "b1",
    ) -> DemoResult:
        return DemoResult(app, predicted, actual, response_s, batch)

    return build
