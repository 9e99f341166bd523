"""Judges bands: those that a live gateway has shown, and those of simulated jobs in turn."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from benchmarks.finish_band.course import JUDGED_AT, Course
from benchmarks.harness.report import Row
from gateway.jobs.batches.progress.calibration import (
    Calibration,
    EndedJob,
    NotedForecast,
    calibrate,
    share_to_note,
)
from gateway.jobs.batches.progress.completion import (
    Band,
    Sample,
    expected_completion,
    forecast,
    with_sample,
)
from gateway.jobs.batches.progress.ended_jobs import JOBS
from gateway.jobs.batches.progress.samples import INTERVAL_S


class Judgement(Struct, frozen=True):
    """A band at a share of a job's work: whether the end was in it or before it, in seconds.

    `width` is the band's, over the time that was left.
    """

    share: float
    inside: bool
    early: bool
    left_s: float
    width: float

    @classmethod
    def of(cls, share: float, now: float, band: Band, ended: float) -> "Judgement":
        """A band that was given at a time."""
        return cls(
            share=share,
            inside=band.p10 <= ended <= band.p90,
            early=ended < band.p10,
            left_s=ended - now,
            width=(band.p90 - band.p10) / max(ended - now, 1.0),
        )


def judge_simulated(courses: Sequence[Course]) -> list[Judgement]:
    """Each job in turn, calibrated by those before it; the first ones by the prior."""
    ended: list[EndedJob] = []
    found: list[Judgement] = []
    for course in courses:
        judged, job = _replay(course, calibrate(ended[-JOBS:]))
        ended.append(job)
        found += judged
    return found


def judge_live(courses: Sequence[Course]) -> list[Judgement]:
    """The bands that were shown."""
    found: list[Judgement] = []
    for course in courses:
        for share in JUDGED_AT:
            passed = course.at(share)
            shown = next((b for b in course.bands if passed is not None and b[0] >= passed), None)
            if shown is not None:
                at, p10, p90 = shown
                found.append(Judgement.of(share, at, Band(p10, p90), course.ended))
    return found


def rows_of(part: str, jobs: int, judged: Sequence[Judgement]) -> list[Row]:
    """A row for each share, and one for all."""
    rows: list[Row] = []
    for share in (*JUDGED_AT, None):
        some = [each for each in judged if share in (None, each.share)]
        if some:
            rows.append(
                {
                    "part": part,
                    "jobs": jobs,
                    "work done": "all" if share is None else share,
                    "bands": len(some),
                    "inside": sum(each.inside for each in some) / len(some),
                    "before P10": sum(each.early for each in some) / len(some),
                    "left_s": median(each.left_s for each in some),
                    "width over left": median(each.width for each in some),
                }
            )
    return rows


def _replay(course: Course, calibration: Calibration) -> tuple[list[Judgement], EndedJob]:
    """The job's bands with this calibration, and its forecasts for the next ones."""
    samples: list[Sample] = [course.points[0]]
    judged: list[Judgement] = []
    noted: list[NotedForecast] = []
    due = list(JUDGED_AT)
    for at, done in course.points[1:]:
        if at - samples[-1][0] >= INTERVAL_S:
            samples = with_sample(samples, at, done)
        share, left = done / course.work, course.work - done
        found = forecast(samples, left)
        to_note = share_to_note(share, noted)
        if found is None or left <= 0:
            continue
        if to_note is not None:
            noted.append(NotedForecast.of(to_note, at, found))
        while due and share >= due[0]:
            scale = calibration.scale_at(share)
            band = expected_completion(samples, left, at, ahead=0.0, pace=None, scale=scale)
            assert band is not None, "the job has a pace"
            judged.append(Judgement.of(due.pop(0), at, band, course.ended))
    return judged, EndedJob(noted, course.ended)
