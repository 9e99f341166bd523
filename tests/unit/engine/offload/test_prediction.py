"""Predicted attention of several sequences, by torch and by C, against its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.offload.prediction import (
    BEYOND,
    CodedKeys,
    NativePrediction,
    PredictAttention,
    choose_prediction,
    predict_attention,
)
from engine.offload.selection import encode, scale_of

KV_HEADS, GROUP, DIM = 2, 3, 8
NATIVE = NativePrediction(GROUP, DIM).predict

seeds = st.integers(0, 1000)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int]:
    return draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)), draw(seeds)


def of(lengths: list[int], seed: int) -> tuple[CodedKeys, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    sequences, tokens = len(lengths), max(lengths)
    keys = torch.randn(sequences, KV_HEADS, tokens, DIM, generator=random)
    scale = scale_of(keys)
    rows = torch.randperm(2 * sequences * KV_HEADS * tokens, generator=random)
    places = rows[: sequences * KV_HEADS * tokens].view(sequences, KV_HEADS, tokens)
    codes = torch.zeros(len(rows), DIM // 2, dtype=torch.uint8)
    codes[places] = encode(keys, scale)
    query = 2 * torch.randn(sequences, KV_HEADS, GROUP, DIM, generator=random)
    return CodedKeys(codes, places, torch.tensor(lengths), scale.step), query


@pytest.mark.parametrize("predict", [predict_attention, NATIVE], ids=["torch", "C"])
@given(cases())
def test_attention_is_the_softmax_of_coded_scores(
    predict: PredictAttention, case: tuple[list[int], int]
) -> None:
    lengths, seed = case
    keys, query = of(lengths, seed)
    found = predict(keys, query)
    for number, length in enumerate(lengths):
        for head in range(KV_HEADS):
            packed = keys.codes[keys.places[number, head, :length]]
            coded = torch.cat((packed & 15, packed >> 4), -1) * keys.step[number, head]
            scores = query[number, head] @ coded.T * DIM**-0.5
            expected = scores.softmax(-1).sum(0)
            assert torch.allclose(found[number, head, :length], expected, atol=1e-5)
            assert (found[number, head, length:] == BEYOND).all()


def test_a_cpu_uses_the_kernel() -> None:
    predict = choose_prediction(torch.device("cpu"), KV_HEADS * GROUP, KV_HEADS, DIM)
    assert predict is not predict_attention


def test_other_devices_and_machines_without_a_compiler_use_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = KV_HEADS * GROUP, KV_HEADS, DIM
    assert choose_prediction(torch.device("cuda"), *shape) is predict_attention
    monkeypatch.setenv("CC", "false")
    assert choose_prediction(torch.device("cpu"), *shape) is predict_attention
