"""The number format follows the weights and the processor."""

import pytest
import torch

from engine.running.number_format import Processor, choose_format

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
NEW = Processor(frozenset({"avx2", "avx512_bf16"}), frozenset({BRAIN, HALF}))
AMX = Processor(frozenset({"avx2", "amx_bf16"}), frozenset({BRAIN, HALF}))
OLD = Processor(frozenset({"avx2"}), frozenset())
CONVERTING = Processor(frozenset({"avx2", "avx512_bw"}), frozenset({BRAIN, HALF}))
LIMITED = Processor(frozenset({"avx2", "avx512_bf16"}), frozenset())  # by ONEDNN_MAX_CPU_ISA
UNKNOWN = Processor(None, frozenset({BRAIN}))


@pytest.mark.parametrize(
    ("processor", "chosen"),
    [
        (NEW, BRAIN),
        (AMX, BRAIN),
        (OLD, FLOAT),
        (CONVERTING, FLOAT),
        (LIMITED, FLOAT),
        (UNKNOWN, FLOAT),
    ],
)
def test_bfloat16_weights_stay_bfloat16_where_the_processor_computes_it(
    processor: Processor, chosen: torch.dtype
) -> None:
    found = choose_format("auto", BRAIN, CPU, processor)
    assert (found.dtype, found.warning) == (chosen, None)


@pytest.mark.parametrize("processor", [NEW, OLD, UNKNOWN])
@pytest.mark.parametrize("stored", [FLOAT, HALF])
def test_other_weights_are_computed_in_float32_on_a_cpu(
    processor: Processor, stored: torch.dtype
) -> None:
    assert choose_format("auto", stored, CPU, processor).dtype == FLOAT


@pytest.mark.parametrize("stored", [FLOAT, BRAIN, HALF])
def test_a_gpu_computes_the_format_of_the_weights(stored: torch.dtype) -> None:
    assert choose_format("auto", stored, GPU, OLD).dtype == stored


@pytest.mark.parametrize(
    ("setting", "processor", "slow"),
    [
        ("bfloat16", OLD, True),
        ("bfloat16", CONVERTING, True),
        ("bfloat16", LIMITED, True),
        ("float16", NEW, True),
        ("float32", NEW, True),
        ("bfloat16", NEW, False),
        ("bfloat16", AMX, False),
        ("float32", OLD, False),
        ("bfloat16", UNKNOWN, False),
    ],
)
def test_a_configured_format_is_taken_with_a_warning_where_it_is_slow(
    setting: str, processor: Processor, slow: bool
) -> None:
    found = choose_format(setting, BRAIN, CPU, processor)
    assert found.dtype == getattr(torch, setting)
    assert found.reason == "set by LMAAS_ENGINE_DTYPE"
    assert (found.warning is not None) == slow


def test_the_reason_names_the_instructions() -> None:
    assert "avx512_bf16" in choose_format("auto", BRAIN, CPU, NEW).reason
    assert "no instructions" in choose_format("auto", BRAIN, CPU, OLD).reason


def test_this_machine_is_described() -> None:
    assert Processor.here().packed <= {BRAIN, HALF}
