"""Checks the settings, each by itself, so that one wrong value hides no other."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

import msgspec

from gateway.diagnosis.finding import Finding, failure, ok
from gateway.errors import StartupFailure
from gateway.settings import PREFIX, Settings, read_settings

PART: Final = "settings"


def usable_settings(environment: Mapping[str, str]) -> Settings:
    """The settings without those that are unknown or invalid; these have their defaults."""
    known = _known(environment)
    return read_settings({name: known[name] for name in known if not _invalid(name, known[name])})


def check_settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """A finding for each unknown or invalid setting, or one for all."""
    names = {field.encode_name for field in msgspec.structs.fields(Settings)}
    given = _known(environment)
    wrong = False
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in names:
            wrong = True
            nearest = get_close_matches(name, names, n=1)
            remedy = f"rename it to {nearest[0]}, or unset it" if nearest else "unset it"
            yield failure(PART, f"{name} is no setting of the gateway", remedy)
        elif name in given and (reason := _invalid(name, given[name])):
            wrong = True
            yield failure(
                PART, reason, f"set {name} to a value that `lmaas configuration` lists, or unset it"
            )
    if not wrong:
        yield ok(PART, f"{len(given)} set, {len(names) - len(given)} at their defaults")


def _known(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are settings, and not empty, which counts as unset."""
    names = {field.encode_name for field in msgspec.structs.fields(Settings)}
    return {name: value for name, value in environment.items() if name in names and value}


def _invalid(name: str, value: str) -> str:
    """Why this value is not accepted; "" if it is."""
    try:
        read_settings({name: value})
    except StartupFailure as error:
        return error.message
    return ""
