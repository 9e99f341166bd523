"""What prefix sharing saves a batch job: for the answer to its creation."""

import numpy as np
from msgspec import Struct

from gateway.jobs.planning.movable_text import MovableText
from gateway.jobs.prefix_groups import ALONE, PrefixGroups
from gateway.jobs.prompts import Ints
from gateway.quantiles import Floats


class GroupsOfSize(Struct, frozen=True):
    """Groups of `least` up to `most` lines, and the job's lines in them."""

    least: int
    most: int
    groups: int
    lines: int


class SharingReport(Struct, frozen=True):
    """A job's prompt tokens, and those computed if each group computes its prefix once.

    A prefix shared with lines of other jobs is divided among all its lines. `groups_by_size` leaves
    out lines that share nothing.
    """

    lines: int
    prompt_tokens: int
    computed_tokens: int
    groups_by_size: list[GroupsOfSize]
    movable: MovableText | None = None

    @property
    def saved_share(self) -> float:
        """The part of the prompt tokens that need not be computed."""
        return 1 - self.computed_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def warning(self) -> str | None:
        """What keeps lines from sharing, in a sentence; None if nothing does."""
        if self.movable is None:
            return None
        found = self.movable
        return (
            f"{found.lines} of {self.lines} lines differ from token {found.differs_at + 1} on and "
            f"agree again from about token {found.agrees_at + 1} on. With the differing part at "
            "the end of the prompt, sharing would save "
            f"{found.would_save_tokens / self.prompt_tokens:.0%} of the prompt tokens instead of "
            f"{found.saves_tokens / self.prompt_tokens:.0%}."
        )


def report_sharing(
    groups: PrefixGroups, prompt_tokens: Ints, new_lines: int, movable: MovableText | None
) -> SharingReport:
    """The report on the last `new_lines` of the lines that were grouped together."""
    computed = prompt_tokens - groups.shared_tokens() + _prefix_shares(groups)
    first = len(prompt_tokens) - new_lines
    return SharingReport(
        lines=new_lines,
        prompt_tokens=int(prompt_tokens[first:].sum()),
        computed_tokens=round(float(computed[first:].sum())),
        groups_by_size=_by_size(groups, groups.group_of[first:]),
        movable=movable,
    )


def _prefix_shares(groups: PrefixGroups) -> Floats:
    """Each line's share of the prefixes that its groups compute: (lines,)."""
    shares: list[float] = (groups.added_tokens / groups.sum_below(groups.sizes)).tolist()
    for group in np.flatnonzero(groups.parent != ALONE).tolist():  # its parent comes before it
        shares[group] += shares[groups.parent[group]]
    found: Floats = np.array([*shares, 0.0])[groups.group_of]
    return found


def _by_size(groups: PrefixGroups, group_of: Ints) -> list[GroupsOfSize]:
    """The groups of these lines, by the power of two that is no more than their size."""
    lines = np.bincount(group_of[group_of != ALONE], minlength=len(groups.prefix_tokens))
    sizes = groups.sum_below(groups.sizes)
    used = np.flatnonzero(lines)
    classes = np.floor(np.log2(sizes[used])).astype(np.int64)
    return [
        GroupsOfSize(
            least=1 << exponent,
            most=(2 << exponent) - 1,
            groups=int(np.count_nonzero(classes == exponent)),
            lines=int(lines[used][classes == exponent].sum()),
        )
        for exponent in np.unique(classes).tolist()
    ]
