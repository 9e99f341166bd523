"""I1: logits where nothing is left out, and the bytes that a step fetches.

SmolLM2 in float32 reads a real text, then is fed what follows token by token: on the device, with
everything fetched, and by speculation that leaves nothing out. Then as the product runs it: the
bytes of a step, against a full fetch and transformers' offloading cache on the same tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.i1.forced import Device, Host, feed, read_prompt
from benchmarks.i1.texts import SOURCES, ids_of
from engine.attention.reference import ReferenceAttention
from engine.kv.store import KvStore
from engine.offload.attention import OffloadAttention
from engine.offload.layout import FETCH_SHARE, OffloadLayout, fetched_tokens
from engine.offload.store import OffloadStore
from engine.running.loaded_model import LoadedModel
from engine.running.model import load_model
from engine.running.runner import choose_attention

PAGE_TOKENS: Final = 16
PROMPT_TOKENS: Final = 1_024
FED_TOKENS: Final = 64
MAX_DIFFERENCE: Final = 1e-5


def run(folder: Path, threads: int, prompt: int, fed: int) -> None:
    """Measure each text, and write the rows."""
    report = Report("I1", look=(prompt, fed) != (PROMPT_TOKENS, FED_TOKENS))
    torch.set_num_threads(threads)
    model = load_model(str(folder), "cpu", "float32")
    rows: list[Row] = []
    for source in SOURCES:
        ids = ids_of(source, folder, prompt + fed)
        rows += _text_rows(model, source, ids, prompt)
        report.say(f"{source} is measured")
    ids = ids_of(next(iter(SOURCES)), folder, prompt + fed)
    rows.append(_transformers_row(folder, ids, prompt))
    report.conclude(rows, targets(rows, model.kv_shape.layers))


def targets(rows: list[Row], layers: int) -> list[Target]:
    """The bounds of the worst text."""
    whole = [row for row in rows if row["share"] == "all"]
    fifth = [row for row in rows if row["share"] == "a fifth"]
    worst = max(row["largest difference of a logit"] for row in whole)
    fetched = max(row["bytes over full"] for row in fifth)
    resident = FETCH_SHARE * (layers - 2) / layers
    return [
        target("nothing left out: difference of a logit", worst, MAX_DIFFERENCE, "at most"),
        target(
            "a fifth, two layers resident: bytes over a full fetch", fetched, resident, "at most"
        ),
    ]


def _text_rows(model: LoadedModel, source: str, ids: list[int], prompt: int) -> list[Row]:
    """Everything fetched, and speculation with everything and with a fifth."""
    pages = list(range(-(-len(ids) // PAGE_TOKENS)))
    device = Device(choose_attention(_store(model, pages), model.heads), pages)
    kinds: list[tuple[str, str, Callable[[int], int], bool]] = [
        ("host-exact", "all", fetched_tokens, False),
        ("host-speculative", "all", lambda tokens: tokens, True),
        ("host-speculative", "a fifth", fetched_tokens, True),
    ]
    hosts = [_host(model, pages, *kind[2:]) for kind in kinds]
    read_prompt(model, device, ids, prompt)
    expected = [feed(model, device, ids, at, at + 1) for at in range(prompt, len(ids))]
    rows = []
    for (memory, share, *_), host in zip(kinds, hosts, strict=True):
        read_prompt(model, host, ids, prompt)
        feed(model, host, ids, prompt, prompt + 1)  # the first fetches all that it needs
        before = host.attention.fetched_bytes
        steps = range(prompt + 1, len(ids))
        found = [feed(model, host, ids, at, at + 1) for at in steps]
        full = sum(full_fetch(model, at) for at in steps)
        row = _row(source, memory, share, found, expected[1:])
        rows.append(row | {"bytes over full": (host.attention.fetched_bytes - before) / full})
        host.attention.close()
    by_torch = Device(ReferenceAttention(_store(model, pages)), pages)
    read_prompt(model, by_torch, ids, prompt)
    found = [feed(model, by_torch, ids, at, at + 1) for at in range(prompt, len(ids))]
    rows.append(
        _row(source, "device, by torch", "none", found, expected) | {"bytes over full": 0.0}
    )
    return rows


def _row(
    source: str, memory: str, share: str, found: list[torch.Tensor], expected: list[torch.Tensor]
) -> Row:
    """Logits against those expected."""
    pairs = list(zip(found, expected, strict=True))
    same = sum(bool(a.argmax() == b.argmax()) for a, b in pairs)
    return {
        "text": source,
        "memory": memory,
        "share": share,
        "largest difference of a logit": max(float((a - b).abs().max()) for a, b in pairs),
        "same likeliest token": same / len(pairs),
    }


def full_fetch(model: LoadedModel, tokens: int) -> int:
    """Bytes of all keys and values of a sequence."""
    shape = model.kv_shape
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * model.dtype.itemsize


def _store(model: LoadedModel, pages: list[int]) -> KvStore:
    return KvStore(model.kv_shape, len(pages), PAGE_TOKENS, model.dtype, model.device)


def _host(
    model: LoadedModel,
    pages: list[int],
    fetched: Callable[[int], int],
    speculative: bool,
) -> Host:
    layout = OffloadLayout(
        model.kv_shape, PAGE_TOKENS, model.dtype, model.device, coded=speculative
    )
    store = OffloadStore(layout, len(pages))
    resident = choose_attention(store.resident, model.heads)
    return Host(OffloadAttention(resident, store, fetched=fetched), pages, speculative)


def _transformers_row(folder: Path, ids: list[int], prompt: int) -> Row:
    """What transformers' offloading cache moves in a step, both ways, by its own layers' calls."""
    moved = 0

    class Counting(DynamicCache):  # type: ignore[misc]  # transformers has no types
        """Counts what is fetched and what is sent back."""

        def update(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal moved
            keys, values = super().update(*args, **kwargs)
            # It fetches the layer whole, and sends it back whole after the update.
            moved += 2 * (keys.nbytes + values.nbytes)
            return keys, values

    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cache = Counting(config=network.config)
    with torch.inference_mode():
        network(torch.tensor([ids[:prompt]]), past_key_values=cache)
        moved = 0
        for at in range(prompt, len(ids)):
            network(torch.tensor([[ids[at]]]), past_key_values=cache)
    shape = network.config
    token = 2 * shape.num_hidden_layers * shape.num_key_value_heads
    token *= (shape.hidden_size // shape.num_attention_heads) * 4
    full = sum(token * (at + 1) for at in range(prompt, len(ids)))
    return {
        "text": next(iter(SOURCES)),
        "memory": "transformers' offloading cache, counted",
        "share": "all, both ways",
        "bytes over full": moved / full,
    }
