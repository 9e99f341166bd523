"""The allow-list of request fields: supported, ignored by name, or refused; null is unset."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Request
from msgspec import Struct

from gateway.api.body import IGNORED
from gateway.errors import UnsupportedParameter, shortened

HEADER: Final = "x-lmaas-ignored-parameters"

# Without effect on the answer, whatever their value.
IGNORED_FIELDS: Final = frozenset(
    {
        "guided_decoding_backend",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "store",
        "stream_interval",
    }
)
# Refused, except with these values, which change nothing. The names are those of OpenAI and vLLM;
# an unlisted name is refused too.
REFUSED_FIELDS: Final[dict[str, tuple[object, ...]]] = {
    "cache_salt": (),
    "detokenize": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1.0,),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "repetition_detection": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}


class FieldRules(Struct, frozen=True):
    """Which fields of a JSON object are accepted. `refused` has the values without effect."""

    supported: frozenset[str]
    ignored: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[object, ...]] = {}

    def screen(self, fields: dict[str, Any], place: str = "") -> tuple[dict[str, Any], list[str]]:
        """The supported fields that are set, and the names of those ignored.

        UnsupportedParameter names the first of the others, after `place`.
        """
        if fields.keys() <= self.supported and None not in fields.values():
            return fields, []
        kept: dict[str, Any] = {}
        ignored = []
        for name, value in fields.items():
            if value is None:
                continue
            if name in self.supported:
                kept[name] = value
            elif name in self.ignored:
                ignored.append(name)
            else:
                self._check_effect(name, value, place)
        return kept, ignored

    def _check_effect(self, name: str, value: object, place: str) -> None:
        """UnsupportedParameter unless this value of a refused field has no effect."""
        idle = self.refused.get(name, ())
        if any(_same(value, each) for each in idle):
            return
        param = shortened(f"{place}{name}")
        hint = f"; accepted is {' or '.join(map(repr, idle))}" if idle else ""
        if name not in self.refused:
            hint = ", which knows no such field"
        raise UnsupportedParameter(f"{param} is not supported by this gateway{hint}", param=param)


def check_function_type(item: Mapping[str, Any], place: str) -> None:
    """UnsupportedParameter for a tool or a call of another type, by its place."""
    kind = item.get("type")
    if isinstance(kind, str) and kind != "function":
        raise UnsupportedParameter(
            f"{place}.type {shortened(kind)!r} is not supported by this gateway; accepted is "
            "'function'",
            param=f"{place}.type",
        )


def ignored_header(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The response header that names the fields that were ignored; none if none were."""
    names = dict.fromkeys(request.state.get(IGNORED, ()))
    return {HEADER: ", ".join(names)} if names else {}


def _same(value: object, other: object) -> bool:
    """Equality of JSON values: true is not 1, but 1 is 1.0 where a float is expected."""
    if isinstance(value, bool) or not isinstance(other, float):
        return type(value) is type(other) and value == other
    return value == other
