"""Example questions that the demo model was not trained on."""

import json
from pathlib import Path
from random import Random
from typing import Final

from engine.demo.jobs import JOBS

EXAMPLES: Final = "examples.jsonl"
SEED: Final = 41_999  # distinct from the seeds of training, validation and exactness
QUESTIONS_PER_JOB: Final = 60


def save_examples(path: Path) -> None:
    """Write `QUESTIONS_PER_JOB` questions of each job, as lines `{"app": …, "question": …}`."""
    rng = Random(SEED)
    questions = [
        (job.name, job.draw(rng).question) for job in JOBS for _ in range(QUESTIONS_PER_JOB)
    ]
    lines = (json.dumps({"app": app, "question": question}) for app, question in questions)
    path.write_text("".join(f"{line}\n" for line in lines))
