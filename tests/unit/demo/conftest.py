from collections.abc import Callable

import pytest

from gateway.demo.sending import Outcome


@pytest.fixture(scope="session")
def an_outcome() -> Callable[..., Outcome]:
    """Makes what came of a request; any field can be given."""

    def build(
        app: str = "spell",
        *,
        predicted: int = 10,
        actual: int = 10,
        response_s: float = 1.0,
        batch: str = "b1",
    ) -> Outcome:
        return Outcome(app, predicted, actual, response_s, batch)

    return build
