"""The fields that give an answer a form: OpenAI's `response_format` and vLLM's own."""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from engine.protocol import Grammar
from gateway.api.body import ScreenedBody
from gateway.api.openai.parameters import FieldRules
from gateway.errors import InvalidRequest, UnsupportedParameter, shortened
from gateway.generation.grammar.schemas import choice_grammar, json_grammar

OBJECT: Final = {"type": "object"}
MAX_CHOICES: Final = 1_000

Schema: TypeAlias = dict[str, Any]
Choices: TypeAlias = Annotated[list[str], Meta(min_length=1, max_length=MAX_CHOICES)]
Pattern: TypeAlias = Annotated[str, Meta(min_length=1)]


class JsonSchemaFormat(Struct):
    """A named JSON schema; it is enforced whether `strict` is set or not."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: Schema | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct):
    """The form of an answer: any text, any JSON object, or what a JSON schema describes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Struct):
    """The form of an answer, as vLLM's clients set it; one of the first five."""

    json: Schema | str | None = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None


RESPONSE_FORMAT: Final = FieldRules(frozenset(ResponseFormat.__struct_fields__))
JSON_SCHEMA: Final = FieldRules(frozenset(JsonSchemaFormat.__struct_fields__))
STRUCTURED_OUTPUTS: Final = FieldRules(
    frozenset(StructuredOutputs.__struct_fields__),
    ignored=frozenset({"disable_fallback"}),
    refused={"disable_additional_properties": (False,), "structural_tag": ()},
)


class StructuredOutput(ScreenedBody, kw_only=True):
    """The fields that give an answer a form, of which a request sets one."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_json_object: bool | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    guided_whitespace_pattern: str | None = None

    def form(self) -> "Form | None":
        """The form that the request sets; None: any text. InvalidRequest names a wrong field."""
        forms = [*self._response_format(), *self._structured_outputs(), *self._guided()]
        if len(forms) > 1:
            names = " and ".join(form.param for form in forms[:2])
            raise InvalidRequest(
                f"{names} are both set; accepted is one form of the answer", param=forms[1].param
            )
        return forms[0] if forms else None

    def _response_format(self) -> Iterator["Form"]:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return
        param = "response_format"
        if wanted.type == "json_schema":
            param = "response_format.json_schema"
            if wanted.json_schema is None:
                raise InvalidRequest(f"{param}: is required", param=param)
            if wanted.json_schema.schema is not None:
                param += ".schema"
        schema = wanted.json_schema.schema if wanted.json_schema else None
        yield Form(json_grammar(OBJECT if schema is None else schema, param=param), param)

    def _structured_outputs(self) -> Iterator["Form"]:
        wanted = self.structured_outputs
        if wanted is None:
            return
        whitespace = "" if wanted.disable_any_whitespace else wanted.whitespace_pattern
        yield from _forms(
            "structured_outputs.",
            json=wanted.json,
            json_object=wanted.json_object,
            regex=wanted.regex,
            choice=wanted.choice,
            grammar=wanted.grammar,
            whitespace=whitespace,
        )

    def _guided(self) -> Iterator["Form"]:
        return _forms(
            "guided_",
            json=self.guided_json,
            json_object=self.guided_json_object,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
            whitespace=self.guided_whitespace_pattern,
        )


class Form(NamedTuple):
    """The grammar of an answer, and the API parameter that set it."""

    grammar: Grammar
    param: str


def screen_structured_output(fields: dict[str, Any]) -> list[str]:
    """Screen the fields inside the forms; the names of those without effect. UnsupportedParameter
    names one that is not accepted.
    """
    ignored = _screen(fields, "response_format", RESPONSE_FORMAT)
    given = fields.get("response_format")
    if isinstance(given, dict):
        kind = given.get("type")
        if kind == "structural_tag":
            raise UnsupportedParameter(
                "response_format.type 'structural_tag' is not supported by this gateway; accepted "
                "are text, json_object and json_schema",
                param="response_format.type",
            )
        ignored += _screen(given, "json_schema", JSON_SCHEMA, "response_format.")
    return ignored + _screen(fields, "structured_outputs", STRUCTURED_OUTPUTS)


def _screen(fields: dict[str, Any], name: str, rules: FieldRules, place: str = "") -> list[str]:
    """Screen the object in a field, if it is one."""
    given = fields.get(name)
    if not isinstance(given, dict):
        return []
    fields[name], ignored = rules.screen(given, f"{place}{name}.")
    return [f"{place}{name}.{each}" for each in ignored]


def _forms(
    place: str,
    *,
    json: Schema | str | None,
    json_object: bool | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    whitespace: str | None,
) -> Iterator["Form"]:
    """The forms that vLLM's fields set, which are named after `place`."""
    if json is not None:
        param = f"{place}json"
        schema = _parsed(json, param) if isinstance(json, str) else json
        yield Form(json_grammar(schema, whitespace=whitespace, param=param), param)
    if json_object:
        param = f"{place}json_object"
        yield Form(json_grammar(OBJECT, whitespace=whitespace, param=param), param)
    if regex is not None:
        yield Form(Grammar("regex", regex), f"{place}regex")
    if choice is not None:
        yield Form(choice_grammar(choice), f"{place}choice")
    if grammar is not None:
        yield Form(Grammar("lark", grammar), f"{place}grammar")


def _parsed(text: str, param: str) -> Schema:
    """A schema in a string. InvalidRequest if it is no JSON object."""
    try:
        return msgspec.json.decode(text, type=Schema)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"{param}: accepted is a JSON schema, an object or its text: {shortened(str(error))}",
            param=param,
        ) from error
