"""Encodes and decodes text with the served model's tokenizer and chat template."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import msgspec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from msgspec import Struct
from tokenizers import Encoding, Tokenizer

from gateway.errors import (
    ContextLengthExceeded,
    InstructionRefused,
    InvalidRequest,
    StartupFailure,
)
from gateway.generation.text.chat_template import (
    MAX_CHARACTERS,
    RefusedByTemplate,
    TooLong,
    read_template,
)
from gateway.generation.text.forged_texts import ForgedTexts
from gateway.generation.text.incremental_decoder import NONE_SHOWN, AnswerDecoder
from gateway.generation.text.prompt_options import PromptOptions
from gateway.generation.text.token_bytes import Speller
from gateway.generation.tools.call_reader import CallReader
from gateway.generation.tools.conversation import tool_prompt
from gateway.generation.tools.definition import Function, ToolUse
from gateway.generation.tools.forms import MARKS, READERS, FormName, form_of_template

MODEL_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "config.json",
)
# Where answers of a model that runs elsewhere end; no part of a model's fingerprint.
FETCHED_FILES: Final = (*MODEL_FILES, "generation_config.json")
DEFAULT_OPTIONS: Final = PromptOptions()
CONTEXT_TOKENS: Final = 8  # of a continued text, on which the text of the next ones may depend
SPELLINGS: Final = 3  # of a bad word
SLICE: Final = 32_768  # characters encoded at a time to count those of a long text
CHARACTERS_PER_TOKEN: Final = 4  # of the context: a text with more is counted before it is encoded
EXCESS: Final = 2  # contexts; a prompt with more tokens is refused before all are counted
HEAD_BYTES: Final = 8 << 20  # of each weight file, in a model's fingerprint


def model_folder(model: str) -> Path:
    """The folder with the model's files; for a hub name, its tokenizer is downloaded first.

    StartupFailure if there is neither such a folder nor such a hub name.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(model, allow_patterns=list(FETCHED_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StartupFailure(
            f"LMAAS_MODEL: no folder {model!r}, and the hub gave no such model ({reason})"
        ) from error


def model_fingerprint(folder: Path) -> str:
    """A hash of the model: configuration, tokenizer, chat template, and the head of the weights."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    for path in (*(folder / name for name in MODEL_FILES), *weights):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(HEAD_BYTES))
    return digest.hexdigest()


class _TokenizerFile(Struct):
    """The part of a `tokenizer.json` that is read here."""

    decoder: dict[str, Any] | None = None


class ChatTokenizer:
    """Encodes conversations and decodes answers. Safe to share between tasks."""

    def __init__(self, folder: Path, tool_form: FormName | None = None) -> None:
        """`tool_form`: in which form the model writes tool calls, if its chat template does not
        show it. StartupFailure for a folder that lacks a file, or whose template shows no tools.
        """
        core = self.file = folder / "tokenizer.json"
        if not core.is_file():
            raise StartupFailure(f"LMAAS_MODEL: {folder} has no tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(core))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._template = read_template(folder, _json(folder / "tokenizer_config.json"))
        self._plain = Tokenizer.from_file(str(core))
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self._control_ids = {number for number, token in added.items() if token.special}
        controls = [re.escape(added[number].content) for number in sorted(self._control_ids)]
        self._control = re.compile("|".join(controls) or r"(?!)")
        self.mark_ids = {  # the marks of tool calls that are tokens of their own
            token.content: number for number, token in added.items() if token.content in MARKS
        }
        marks = self.mark_ids.items()
        self._marks = {number: mark for mark, number in marks if number in self._control_ids}
        self.tool_form = self._tool_form(tool_form)
        written = msgspec.json.decode(core.read_bytes(), type=_TokenizerFile)
        self.speller = Speller(self._tokenizer, written.decoder or {})
        self.longest_token: int = max(map(len, self._tokenizer.get_vocab()))
        self.fingerprint: str = hashlib.sha256(
            core.read_bytes() + self._template.source.encode()
        ).hexdigest()

    def _tool_form(self, wanted: FormName | None) -> FormName:
        if wanted == "json" or not self._template.shows_tools:
            if wanted not in {None, "json"}:
                raise StartupFailure(
                    f"LMAAS_TOOL_PARSER is {wanted!r}, but the model's chat template shows no "
                    "tools; accepted are 'auto' and 'json'"
                )
            return "json"
        return wanted or form_of_template(self._template.tool_source)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: PromptOptions = DEFAULT_OPTIONS,
        functions: Sequence[Function] = (),
        *,
        registered: bool = False,
        max_characters: int = MAX_CHARACTERS,
        context_tokens: int | None = None,
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins, or of what `options` say.

        `functions`: those that the model may call. `registered`: the first message is the app's
        registered instruction. A control token written into any of these is encoded as plain text.
        InvalidRequest if the model's template refuses the messages or has no place for the final
        one that the answer continues, InstructionRefused if it refuses only the registered one,
        ContextLengthExceeded if the rendered text has more than `max_characters`, or is much longer
        than `context_tokens`.
        """
        self._check_variables(options)
        turns, tools = self._turns(messages, functions)
        try:
            parts = self._parts(turns, max_characters, options, tools)
        except RefusedByTemplate as error:
            if registered and self._renders(messages[1:], functions, max_characters):
                raise InstructionRefused(
                    "the instruction that is registered for this app is refused by the model's "
                    f"chat template: {error}; the messages are not the cause"
                ) from error
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except TooLong as error:
            raise ContextLengthExceeded(
                f"the chat template makes more than {max_characters} characters of these messages, "
                "which exceeds the model's context",
                param="messages",
            ) from error
        ids: list[int] = []
        for text, plain in parts:
            tokenizer = self._plain if plain else self._tokenizer
            ids += _ids(tokenizer, text, context_tokens, param="messages")
            _check_excess(len(ids), context_tokens, param="messages")
        return ids

    def _check_variables(self, options: PromptOptions) -> None:
        reserved = self._template.reserved & options.variables.keys()
        if reserved:
            raise InvalidRequest(
                f"chat_template_kwargs sets {min(reserved)!r}, which is not the request's to set",
                param="chat_template_kwargs",
            )

    def check_instruction(self, instruction: str) -> None:
        """InvalidRequest if the model's template refuses this instruction of an app."""
        turns = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": "hello"},
        ]
        try:
            self._template.render(turns)
        except RefusedByTemplate as error:
            raise InvalidRequest(
                f"instruction: the model's chat template refuses it as a system message: {error}",
                param="instruction",
            ) from error
        except TooLong as error:
            raise InvalidRequest(
                f"instruction: the model's chat template makes more than {MAX_CHARACTERS} "
                "characters of it",
                param="instruction",
            ) from error

    def _parts(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_characters: int,
        options: PromptOptions = DEFAULT_OPTIONS,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[tuple[str, bool]]:
        """The rendered text in parts, and whether a part's control tokens are plain text.

        If the answer continues the final message, they end with its content.
        """
        secret = secrets.token_hex(16)  # stands for forged texts while the template renders
        guard = ForgedTexts(self._control, secret)
        tools = guard.replaced(list(tools))
        messages = [
            {**m, "tool_calls": guard.replaced(m["tool_calls"])} if "tool_calls" in m else m
            for m in messages
        ]
        forged = [self._control.search(m["content"]) is not None for m in messages]
        final = len(messages) - 1 if options.continues_final else None
        render = partial(
            self._template.render,
            max_characters=max_characters,
            variables=options.variables,
            opens_answer=options.opens_answer and not options.continues_final,
            tools=tools,
        )
        if not any(forged) and not guard.texts and final is None:
            return [(render(messages), False)]
        marked = [
            {**m, "content": f"{secret}{place}."} if is_forged or place == final else m
            for place, (m, is_forged) in enumerate(zip(messages, forged, strict=True))
        ]
        pieces = re.split(rf"{secret}(\d+)\.", render(marked))
        if final is not None:
            pieces = _up_to(pieces, str(final))
        parts = [
            (messages[int(piece)]["content"], forged[int(piece)]) if number % 2 else (piece, False)
            for number, piece in enumerate(pieces)
        ]
        parts = [each for part in parts for each in guard.restored(*part)]
        parts = [
            ("".join(text for text, _ in run), plain)
            for plain, run in groupby(parts, key=itemgetter(1))
        ]
        if sum(len(text) for text, _ in parts) > max_characters:
            raise TooLong
        return parts

    def _renders(
        self,
        messages: Sequence[Mapping[str, Any]],
        functions: Sequence[Function],
        max_characters: int,
    ) -> bool:
        turns, tools = self._turns(messages, functions)
        try:
            self._template.render(turns, max_characters, tools=tools)
        except (RefusedByTemplate, TooLong):
            return False
        return True

    def _turns(
        self, messages: Sequence[Mapping[str, Any]], functions: Sequence[Function]
    ) -> tuple[Sequence[Mapping[str, Any]], list[dict[str, Any]]]:
        """Messages and tools as the chat template takes them."""
        system = self._template.takes_system
        return tool_prompt(self.tool_form, messages, functions, system=system)

    def encode_bad_word(self, word: str) -> list[list[int]]:
        """Token ids of a word that must not be generated: within a text, and after a space."""
        bare = word.lstrip(" ")
        spellings = (word, bare, f" {bare}")
        return [list(ids) for ids in dict.fromkeys(tuple(self.encode(s)) for s in spellings) if ids]

    def encode_prompt(self, text: str, context_tokens: int | None = None) -> list[int]:
        """Token ids of a raw prompt, with the tokenizer's special tokens such as BOS.

        ContextLengthExceeded if it is much longer than `context_tokens`.
        """
        return _ids(self._tokenizer, text, context_tokens, special=True, param="prompt")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return _ids(self._tokenizer, text)

    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    @property
    def vocabulary(self) -> int:
        """One more than the highest token id."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def count(self, text: str) -> int:
        """Number of tokens of a text, without special tokens."""
        return len(_encoding(self._tokenizer, text))

    def decoder(self, continued: Sequence[int] = (), *, calls: bool = False) -> AnswerDecoder:
        """A decoder for one answer; `continued`: the prompt whose text it continues.

        A control token ends a text: what follows begins another one. `calls`: those that mark
        tool calls are part of the text.
        """
        tail = continued[-CONTEXT_TOKENS:]
        ends = [place for place, token in enumerate(tail, 1) if token in self._control_ids]
        context = tail[ends[-1] if ends else 0 :]
        return AnswerDecoder(self._tokenizer, context, self._marks if calls else NONE_SHOWN)

    def call_reader(self, use: ToolUse) -> CallReader:
        """A reader of the calls in one answer, whose decoder keeps their marks."""
        return READERS[self.tool_form](use.names, None if use.parallel else 1)


def _up_to(pieces: list[str], place: str) -> list[str]:
    """Texts and places in turn, up to the last of this place. InvalidRequest if it is not there."""
    places = pieces[1::2]
    if place not in places:
        raise InvalidRequest(
            "the model's chat template does not show the final message, so no answer can "
            "continue it",
            param="continue_final_message",
        )
    last = len(places) - 1 - places[::-1].index(place)
    return pieces[: 2 * last + 2]


def _encoding(tokenizer: Tokenizer, text: str, *, special: bool = False) -> Encoding:
    """The encoded text. Unlike `encode`, the batch call does not hold the interpreter lock."""
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=special)
    return encoding


def _ids(
    tokenizer: Tokenizer,
    text: str,
    context_tokens: int | None = None,
    *,
    special: bool = False,
    param: str | None = None,
) -> list[int]:
    """Token ids. ContextLengthExceeded if the text is much longer than the context.

    A text of many characters is counted in slices first, so that the cost of one that is refused
    does not grow with its length.
    """
    if context_tokens is not None and len(text) > max(SLICE, CHARACTERS_PER_TOKEN * context_tokens):
        counted = 0
        for start in range(0, len(text), SLICE):
            counted += len(_encoding(tokenizer, text[start : start + SLICE]))
            _check_excess(counted, context_tokens, param)
    encoding = _encoding(tokenizer, text, special=special)
    _check_excess(len(encoding), context_tokens, param)
    return encoding.ids


def _check_excess(tokens: int, context_tokens: int | None, param: str | None) -> None:
    """ContextLengthExceeded for more than EXCESS contexts: cutting into slices adds far fewer."""
    if context_tokens is not None and tokens > EXCESS * context_tokens:
        raise ContextLengthExceeded(
            f"the model's context is {context_tokens} tokens; the prompt takes more than "
            f"{EXCESS * context_tokens}: shorten it",
            param=param,
        )


def _json(path: Path) -> dict[str, Any]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.is_file() else {}
