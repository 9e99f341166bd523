"""vLLM's engine with closed-loop clients: `python -m benchmarks.e4.vllm_process FOLDER DTYPE`.

Runs in an environment of its own (`benchmarks.engine.installation`).
"""

import importlib
import sys
from typing import Any, Final

from benchmarks.e4.closed_loop import ClosedLoop
from benchmarks.engine.contestants.pipe import Channel
from benchmarks.engine.contestants.vllm_cpu import load
from benchmarks.engine.workload import Request

SEQUENCES: Final = 64  # at once: more than there are clients


def run(engine: Any, task: Any) -> dict[str, object]:
    """Serve a task's requests, step by step."""
    loop = ClosedLoop(Request(*fields) for fields in task["requests"])
    for request in loop.begin(task["clients"]):
        _add(engine, request)
    while not loop.done:
        for output in engine.step():
            if loop.received(output.request_id, list(output.outputs[0].token_ids)):
                following = loop.next()
                if following is not None:
                    _add(engine, following)
    exchanges = {
        name: (each.sent_s, each.tokens, each.at_s) for name, each in loop.exchanges.items()
    }
    return {"saturated_s": loop.saturated_s, "exchanges": exchanges}


def _add(engine: Any, request: Request) -> None:
    vllm = importlib.import_module("vllm")
    kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
    parameters = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=request.tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=kinds.DELTA,
    )
    engine.add_request(request.id, {"prompt_token_ids": request.prompt}, parameters)


def main(folder: str, dtype: str) -> None:
    """Load the model, then serve tasks until stdin ends."""
    channel = Channel()
    engine = load(folder, dtype, SEQUENCES, compiled=False).llm_engine
    channel.serve(lambda task: run(engine, task))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
