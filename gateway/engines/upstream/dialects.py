"""How each kind of server is asked for one sequence, and how its events are read."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from engine.protocol import Sampling, Sequence, TokenLogprobs
from gateway.engines.upstream.capabilities import Capabilities
from gateway.engines.upstream.failures import RequestRefused, StreamBroken
from gateway.engines.upstream.local_model import LocalModel
from gateway.engines.upstream.server import message_of

MAX_SEED: Final = 2**63 - 1
MAX_SEED_LLAMA: Final = 2**31 - 1
FORBIDDEN_BIAS: Final = -100.0
SAMPLER_ORDER: Final = ("penalties", "temperature", "top_k", "top_p", "min_p")  # that of ours
UNREADABLE: Final = "the server sent an event that is no completion"
GRAMMAR_FIELDS: Final = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
MAX_CLIENT_ERROR: Final = 500


class Work(Struct, frozen=True):
    """What is asked of a server: a sequence that has generated `held` tokens so far.

    With `from_start` the server generates these again, since it cannot go on within a grammar. It
    may send `at_once` tokens together.
    """

    sequence: Sequence
    held: list[int]
    from_start: bool = False
    at_once: int = 1

    @property
    def prompt(self) -> list[int]:
        """The tokens to go on from."""
        return self.sequence.prompt if self.from_start else [*self.sequence.prompt, *self.held]

    @property
    def done(self) -> int:
        """The generated tokens that the server takes for a part of the prompt."""
        return 0 if self.from_start else len(self.held)

    @property
    def max_tokens(self) -> int:
        """The most tokens to generate."""
        return self.sequence.max_tokens - self.done

    def seed(self, most: int) -> dict[str, int]:
        """A field with a seed of at most this size; none where no answer has to come again.

        The client may have chosen one, and a grammar is generated from its start again. Others have
        none: vLLM samples requests with seeds one after another. It is the sequence's own at its
        start, else one for the place.

        A server begins its random numbers again with each request: after a place, the same seed
        would repeat those of the first tokens. One that is near would be another choice's.
        """
        if not self.sequence.seeded and self.sequence.grammar is None:
            return {}
        seed = self.sequence.sampling.seed
        if self.done:
            place = f"{seed} {self.done}".encode()
            seed = int.from_bytes(blake2b(place, digest_size=8).digest())
        return {"seed": seed & most}


class Chunk(Struct):
    """One event: tokens and their text, and the end if it came.

    `tokens` is None if the server sent none: then they follow from the text.
    """

    tokens: list[int] | None
    text: str = ""
    logprobs: list[TokenLogprobs] = []
    finish: str | None = None


class Dialect(Protocol):
    """Asks one kind of server and reads its answers."""

    path: str

    def body(self, work: Work) -> dict[str, Any]:
        """The body of the request."""

    def read(self, data: bytes, work: Work) -> Chunk | None:
        """An event; None for one without tokens or end.

        StreamBroken if it is not readable or reports a failure, RequestRefused if it says that the
        request is at fault.
        """


class _Logprobs(Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Choice(Struct):
    text: str = ""
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Error(Struct):
    message: str = ""
    code: int | str | None = None


class _Completion(Struct):
    choices: list[_Choice] = []
    error: _Error | str | None = None


class _Candidate(Struct):
    id: int = 0
    logprob: float = 0.0
    top_logprobs: list["_Candidate"] = []


class _LlamaPart(Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    completion_probabilities: list[_Candidate] = []
    error: _Error | str | None = None


_completion = msgspec.json.Decoder(_Completion)
_llama_part = msgspec.json.Decoder(_LlamaPart)


class CompletionsDialect:
    """`/v1/completions`: with token ids and vLLM's extensions, or with OpenAI's fields alone."""

    path = "/v1/completions"

    def __init__(self, capabilities: Capabilities, model: LocalModel) -> None:
        self._can = capabilities
        self._model = model

    def body(self, work: Work) -> dict[str, Any]:
        """The body of the request."""
        can, sampling = self._can, work.sequence.sampling
        prompt = work.prompt
        body: dict[str, Any] = {
            "model": can.model,
            "prompt": prompt if can.token_prompts else self._model.codec.prompt_text(prompt),
            "stream": True,
            "max_tokens": work.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **work.seed(MAX_SEED),
        }
        for name in ("presence_penalty", "frequency_penalty"):
            if value := getattr(sampling, name):
                body[name] = value
        if can.token_answers:
            body["return_token_ids"] = True
        if can.kind == "vllm":
            body |= self._vllm_fields(work)
        return body

    def _vllm_fields(self, work: Work) -> dict[str, Any]:
        """VLLM's extensions. Stop ids are given in full, so the model's own end is ignored."""
        sequence, sampling = work.sequence, work.sequence.sampling
        fields: dict[str, Any] = {"ignore_eos": True, "stop_token_ids": sequence.stop_ids}
        given = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "min_tokens": max(sampling.min_tokens - work.done, 0),
            "allowed_token_ids": sampling.allowed,
            "bad_words": self._bad_words(sampling),
            "logit_bias": _biases(sampling),
        }
        fields |= {name: value for name, value in given.items() if value}
        if sampling.repetition_penalty != 1.0:
            fields["repetition_penalty"] = sampling.repetition_penalty
        if sampling.logprobs is not None:
            fields |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
        if sequence.grammar is not None:
            kind = GRAMMAR_FIELDS[sequence.grammar.kind]
            fields["structured_outputs"] = {kind: sequence.grammar.source}
        if self._can.intervals and work.at_once > 1:
            fields["stream_interval"] = work.at_once
        if self._can.salts and sequence.salt:
            fields["cache_salt"] = sequence.salt
        return fields

    def _bad_words(self, sampling: Sampling) -> list[str]:
        """Bad words of several tokens as text; vLLM adds the spellings after a space itself."""
        texts = [self._model.codec.text(ids) for ids in sampling.bad_words if len(ids) > 1]
        return list(dict.fromkeys(text.lstrip(" ") for text in texts if text.strip()))

    def read(self, data: bytes, work: Work) -> Chunk | None:
        """An event."""
        try:
            event = _completion.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StreamBroken(
                f"the server sent an event that is no completion: {error}"
            ) from error
        _check(event.error)
        if not event.choices:
            return None
        choice = event.choices[0]
        tokens = (choice.token_ids or []) if self._can.token_answers else None
        if not (tokens or choice.text or choice.finish_reason):
            return None
        wanted = work.sequence.sampling.logprobs
        scored = (
            [] if choice.logprobs is None or wanted is None else _scores(choice.logprobs, wanted)
        )
        return Chunk(tokens, choice.text, scored, choice.finish_reason)


class LlamaCppDialect:
    """llama.cpp's own `/completion`, which takes and returns token ids."""

    path = "/completion"

    def __init__(self, model: LocalModel) -> None:
        self._model = model

    def body(self, work: Work) -> dict[str, Any]:
        """The body of the request."""
        sequence, sampling = work.sequence, work.sequence.sampling
        greedy = sampling.temperature == 0
        body: dict[str, Any] = {
            "prompt": work.prompt,
            "stream": True,
            "n_predict": work.max_tokens,
            "return_tokens": True,
            "cache_prompt": True,
            "samplers": SAMPLER_ORDER,
            "temperature": sampling.temperature,
            "top_k": 1 if greedy else sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": len(sequence.prompt) + sequence.max_tokens,  # all of it, as ours
            **work.seed(MAX_SEED_LLAMA),
            "ignore_eos": not set(self._model.stop_ids) & set(sequence.stop_ids),
        }
        if sampling.logit_bias:
            body["logit_bias"] = list(sampling.logit_bias.items())
        if sampling.logprobs is not None:
            body["n_probs"] = max(sampling.logprobs, 1)
        if sequence.grammar is not None:
            body["json_schema"] = msgspec.Raw(sequence.grammar.source.encode())
        return body

    def read(self, data: bytes, work: Work) -> Chunk | None:
        """An event. Tokens within a character are not sent, so the text says what is missing."""
        try:
            part = _llama_part.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StreamBroken(
                f"the server sent an event that is no completion: {error}"
            ) from error
        _check(part.error)
        finish = _llama_finish(part)
        if not (part.content or part.tokens or finish):
            return None
        tokens = part.tokens if part.tokens or not part.content else None
        if tokens and self._model.codec.spelled(tokens) != part.content.encode():
            tokens = None
        wanted = work.sequence.sampling.logprobs
        scored = [
            TokenLogprobs(each.logprob, [(t.id, t.logprob) for t in each.top_logprobs[:wanted]])
            for each in (part.completion_probabilities if wanted is not None else ())
        ]
        return Chunk(tokens, part.content, scored, finish)


def dialect_of(capabilities: Capabilities, model: LocalModel) -> Dialect:
    """The dialect of a server with these capabilities."""
    if capabilities.kind == "llama.cpp":
        return LlamaCppDialect(model)
    return CompletionsDialect(capabilities, model)


def _llama_finish(part: _LlamaPart) -> str | None:
    if not part.stop:
        return None
    return "length" if part.stop_type == "limit" else "stop"


def _check(error: _Error | str | None) -> None:
    """What an event that reports an error means."""
    if error is None:
        return
    code = error.code if isinstance(error, _Error) else None
    message = message_of(msgspec.json.encode({"error": error}))
    if isinstance(code, int) and code < MAX_CLIENT_ERROR:
        raise RequestRefused(message)
    raise StreamBroken(f"the server reported an error: {message}")


def _biases(sampling: Sampling) -> Mapping[str, float]:
    """Biases by id as text; a bad word of one token has the lowest."""
    single = {ids[0]: FORBIDDEN_BIAS for ids in sampling.bad_words if len(ids) == 1}
    return {str(token): bias for token, bias in (sampling.logit_bias | single).items()}


def _scores(logprobs: _Logprobs, wanted: int) -> list[TokenLogprobs]:
    """Log probabilities, whose tokens are written `token_id:N`. StreamBroken if they are not."""
    try:
        return [
            TokenLogprobs(logprob or 0.0, _top(top or {}, wanted))
            for logprob, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
        ]
    except ValueError as error:
        raise StreamBroken(f"the server sent log probabilities without ids: {error}") from error


def _top(found: Mapping[str, float], wanted: int) -> list[tuple[int, float]]:
    """The likeliest tokens: the server also sends the sampled one where it is not among them."""
    ranked = sorted(found.items(), key=lambda each: -each[1])[:wanted]
    return [(int(name.rpartition(":")[2]), logprob) for name, logprob in ranked]
