"""A gateway in front of two vLLMs of one model, and greedy answers whose every token is known."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import openai

from benchmarks.harness.upstream_servers import Server
from gateway.generation.text.token_bytes import TokenText
from gateway.generation.text.tokenizer import ChatTokenizer
from tests.engine_metrics import by_engine
from tests.upstream.checks import PATIENCE_S, Setting
from tests.upstream.front import ADMIN_KEY

TOKENS: Final = 60
LIKELIEST: Final = 2  # tokens whose probability the model gives at each place
# Nats. Logits in bfloat16 have steps of up to 0.25, and depend on what else is in the batch.
MOST_GAP: Final = 0.5
GENERATED: Final = "vllm:generation_tokens_total"
SUBMITTED: Final = "lmaas_engine_submitted_sequences_total"
MOVED: Final = "lmaas_moved_sequences_total"


class Story(NamedTuple):
    """A streamed answer: its text and, from its log probabilities, its tokens."""

    question: str
    text: str
    tokens: list[TokenText]
    reason: str


class Pair(Setting):
    """A gateway in front of two servers, each of which runs `slots` sequences at once."""

    def __init__(
        self,
        servers: Sequence[Server],
        url: str,
        client: openai.AsyncOpenAI,
        slots: int,
        running: str,
        model: Path,
    ) -> None:
        super().__init__(servers[0], url, client, slots, running)
        self.servers = servers
        self._tokenizer = tokenizer = ChatTokenizer(model)
        spell = tokenizer.speller.spell
        self._ids = {spell(token): token for token in range(tokenizer.vocabulary)}

    async def engines(self) -> list[dict[str, Any]]:
        """The servers as the gateway shows them."""
        async with self._admin() as client:
            answer = (await client.get("/admin/engine")).raise_for_status()
        return list(answer.json()["engines"])

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until the servers are shown like this."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.engines()):
                await asyncio.sleep(0.05)

    async def command(self, name: str, number: int) -> None:
        """Drain a server, or resume it."""
        async with self._admin() as client:
            answer = await client.post(f"/admin/engine/{name}", params={"engine": number})
            answer.raise_for_status()

    async def counted(self, name: str) -> dict[str, float]:
        """A metric of the gateway by the number of the server; "" where it has none."""
        async with self._admin() as client:
            text = (await client.get("/metrics")).text
        return by_engine(text, name)

    async def generated(self) -> list[float]:
        """The tokens that each server says it has generated since its start."""
        return [await asyncio.to_thread(each.metric, GENERATED) for each in self.servers]

    async def story(self, number: int, begun: set[int] | None = None) -> Story:
        """An answer of `TOKENS` tokens; its number joins `begun` with its first text."""
        question = f"Write story {number} of the sea."
        options = {"stream": True, "max_tokens": TOKENS, "logprobs": True}
        text, reason, tokens = "", "", []
        stream = await self.ask(question, **options, extra_body={"min_tokens": TOKENS})
        async for chunk in stream:
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for each in choice.logprobs.content if choice.logprobs else ():
                spelled = None if each.bytes is None else bytes(each.bytes)
                tokens.append(TokenText(each.token, spelled))
            if begun is not None and text:
                begun.add(number)
        return Story(question, text, tokens, reason)

    async def check_whole(self, stories: Collection[Story], number: int = 0) -> None:
        """Nothing of the answers is lost or doubled, as the model of this server says.

        Each has all its tokens, they are its text, and each token is the one that the model finds
        likeliest after the question and the tokens before it.
        """
        for story in stories:
            assert (story.reason, len(story.tokens)) == ("length", TOKENS), story
            spelled = b"".join(token.bytes or b"" for token in story.tokens)
            assert spelled.decode(errors="replace") == story.text, story
            gap = await self._worst_gap(story, self.servers[number])
            assert gap <= MOST_GAP, (gap, story)

    async def _worst_gap(self, story: Story, server: Server) -> float:
        """By how many nats, at most, another token than the story's was likelier."""
        prompt = self._tokenizer.encode_chat([{"role": "user", "content": story.question}])
        tokens = [self._ids[token] for token in story.tokens]
        body = {
            "model": "smollm2",
            "prompt": prompt + tokens,
            "max_tokens": 1,
            "prompt_logprobs": LIKELIEST,
        }
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
            answer = (await client.post("/v1/completions", json=body)).raise_for_status().json()
        places = answer["choices"][0]["prompt_logprobs"][len(prompt) :]
        assert len(places) == len(tokens)
        gaps = []
        for token, found in zip(tokens, places, strict=True):
            scores = {int(name): each["logprob"] for name, each in found.items()}
            own = scores.pop(token)
            # The end of the answer, a control token, was not allowed to come.
            others = [score for other, score in scores.items() if not self._is_control(other)]
            gaps.append(max(others, default=own) - own)
        return max(gaps)

    def _is_control(self, token: int) -> bool:
        return self._tokenizer.speller.spell(token).bytes is None

    def _admin(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S)
