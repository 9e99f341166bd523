"""`docs/errors.md` is complete and up to date."""

from pathlib import Path

import pytest

from gateway.api.errors import CODE
from gateway.cli.errors import entries, page, subclasses_of
from gateway.errors import LmaasError

ROOT = Path(__file__).parents[3]


def test_errors_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == page(), "run `make docs`"


@pytest.mark.parametrize("kind", list(subclasses_of(LmaasError)))
def test_every_error_has_a_code_a_cause_and_a_remedy_of_its_own(kind: type[LmaasError]) -> None:
    own = vars(kind)
    assert own.get("code")
    assert own.get("remedy")
    assert own.get("__doc__")


def test_every_code_of_the_http_api_is_on_the_page_once() -> None:
    codes = [entry.code for entry in entries()]
    assert len(codes) == len(set(codes))
    assert set(CODE.values()) <= set(codes)
