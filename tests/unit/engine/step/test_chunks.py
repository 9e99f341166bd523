"""The parts of a step."""

from engine.step.chunks import decoding_rows


def test_a_step_of_one_token_decodes_while_a_prompt_waits() -> None:
    assert decoding_rows(3, 1, prompts=True) == 1
    assert decoding_rows(3, 0, prompts=True) == 0
    assert decoding_rows(30, 16, prompts=True) == 14
