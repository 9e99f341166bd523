"""Holds are granted, grown and settled as a replay of the whole log says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.limits.accounts import period_end_s
from gateway.limits.hold_ledger import Ask, Granted, HoldLedger, Refused
from gateway.limits.limit import Effect, Level, Limit, Period, Quantity, Standing, Subjects

NOON_S = 1_767_960_000.0  # 2026-01-09 12:00 UTC
TENANTS, APPS, KEYS = ([UUID(int=base + number) for number in range(2)] for base in (10, 20, 30))
USERS = ("ada", "bob", None)


def a_limit(
    number: int = 1,
    *,
    level: Level = "tenant",
    subject: UUID | None = TENANTS[0],
    quantity: Quantity = "tokens",
    period: Period = "day",
    amount: int = 600,
    effect: Effect = "hard",
) -> Limit:
    return Limit(
        id=UUID(int=number),
        level=level,
        subject=subject,
        quantity=quantity,
        period=period,
        amount=amount,
        effect=effect,
    )


def an_ask(
    name: int = 0,
    tokens: int = 100,
    *,
    expected: int | None = None,
    lasts_s: float = 10,
    user: str | None = None,
) -> Ask:
    amounts: dict[Quantity, int] = {"tokens": tokens, "requests": 1}
    return Ask(
        name=name,
        subjects=Subjects(tenant=TENANTS[0], app=APPS[0], key=KEYS[0], user=user),
        amounts=amounts,
        expected=amounts if expected is None else {"tokens": expected, "requests": 1},
        ends_s=NOON_S + lasts_s,
    )


def test_what_was_not_used_of_a_hold_can_be_held_again() -> None:
    ledger = HoldLedger([a_limit(amount=150)])
    ledger.ask(an_ask(0, 100), NOON_S)
    assert isinstance(ledger.ask(an_ask(1, 100), NOON_S), Refused)
    ledger.settle(0, {"tokens": 40}, NOON_S + 1)
    assert ledger.ask(an_ask(1, 100), NOON_S + 1) == Granted()


def test_a_settled_hold_is_settled_once() -> None:
    ledger = HoldLedger([a_limit(amount=150)])
    ledger.ask(an_ask(0, 100), NOON_S)
    ledger.settle(0, {"tokens": 40}, NOON_S)
    ledger.settle(0, {"tokens": 40}, NOON_S)
    assert ledger.room(an_ask().subjects, "tokens", NOON_S) == 110


def test_a_request_refused_by_one_limit_holds_nothing_in_others() -> None:
    large, small = a_limit(1, amount=1_000), a_limit(2, level="app", subject=APPS[0], amount=50)
    ledger = HoldLedger([large, small])
    refused = ledger.ask(an_ask(0, 100), NOON_S)
    assert isinstance(refused, Refused)
    assert refused.limit == small
    ledger.use([large])
    assert ledger.room(an_ask().subjects, "tokens", NOON_S) == 1_000


def test_a_growing_answer_gets_what_is_left() -> None:
    ledger = HoldLedger([a_limit(amount=130)])
    ledger.ask(an_ask(0, 100), NOON_S)
    assert ledger.grow(0, {"tokens": 1}, 20, NOON_S) == 20
    assert ledger.grow(0, {"tokens": 1}, 20, NOON_S) == 10
    assert ledger.grow(0, {"tokens": 1}, 20, NOON_S) == 0


def test_soft_and_warning_limits_let_requests_run_and_are_named() -> None:
    soft, warning = a_limit(1, amount=50, effect="soft"), a_limit(2, amount=60, effect="warn")
    verdict = HoldLedger([soft, warning]).ask(an_ask(0, 100), NOON_S)
    assert verdict == Granted((soft, warning))
    assert verdict.yields


def test_each_user_has_an_account_of_its_own() -> None:
    ledger = HoldLedger([a_limit(level="user", subject=APPS[0], amount=100)])
    assert ledger.ask(an_ask(0, 100, user="ada"), NOON_S) == Granted()
    assert ledger.ask(an_ask(1, 100, user="bob"), NOON_S) == Granted()
    assert isinstance(ledger.ask(an_ask(2, 1, user="ada"), NOON_S), Refused)
    assert ledger.ask(an_ask(3, 500), NOON_S) == Granted()  # names no user


def test_the_wait_of_a_held_budget_ends_when_holds_are_expected_to_use_less() -> None:
    ledger = HoldLedger([a_limit(amount=250)])
    ledger.ask(an_ask(0, 100, expected=80, lasts_s=30), NOON_S)
    ledger.ask(an_ask(1, 100, expected=60, lasts_s=20), NOON_S)
    refused = ledger.ask(an_ask(2, 90, lasts_s=5), NOON_S)
    assert refused == Refused(a_limit(amount=250), 20.0, asked=90, left=50)
    spent = ledger.ask(an_ask(2, 150), NOON_S)
    assert isinstance(spent, Refused)
    assert spent.wait_s == 12 * 3_600.0  # not before midnight
    assert ledger.ask(an_ask(2, 251), NOON_S).wait_s == float("inf")  # type: ignore[union-attr]


def test_a_limit_that_changes_keeps_what_was_used() -> None:
    ledger = HoldLedger([a_limit(amount=100)])
    ledger.ask(an_ask(0, 100), NOON_S)
    ledger.use([a_limit(amount=130)])
    assert ledger.room(an_ask().subjects, "tokens", NOON_S) == 30


def test_idle_accounts_are_forgotten() -> None:
    ledger = HoldLedger([a_limit(level="user", subject=APPS[0], period="at_once")])
    ledger.ask(an_ask(0, 100, user="ada"), NOON_S)
    ledger.forget_idle(NOON_S)
    assert ledger.accounts == 1
    ledger.settle(0, {"tokens": 40}, NOON_S)
    ledger.forget_idle(NOON_S)
    assert ledger.accounts == 0


def test_accounts_of_a_minute_or_a_day_are_idle_once_their_period_is_over() -> None:
    limits = [
        a_limit(1, level="user", subject=APPS[0], period="minute"),
        a_limit(2, level="user", subject=APPS[0], period="day"),
    ]
    ledger = HoldLedger(limits)
    ledger.ask(an_ask(0, 100, user="ada"), NOON_S)
    ledger.settle(0, {"tokens": 40}, NOON_S)
    ledger.forget_idle(NOON_S)
    assert ledger.accounts == 2
    ledger.forget_idle(NOON_S + 60)
    assert ledger.accounts == 1
    ledger.forget_idle(NOON_S + 86_400)
    assert ledger.accounts == 0


def test_a_running_answer_is_ended_by_budgets_alone() -> None:
    limits = [a_limit(1, period="minute", amount=100), a_limit(2, period="at_once", amount=100)]
    ledger = HoldLedger(limits)
    ledger.ask(an_ask(0, 100), NOON_S)
    assert ledger.grow(0, {"tokens": 1}, 20, NOON_S) == 20
    assert ledger.spent(0, {"tokens": 1}, NOON_S) is None
    assert isinstance(ledger.ask(an_ask(1, 1), NOON_S + 6), Refused)  # the bucket is at -10


def test_a_hold_that_is_made_smaller_leaves_room() -> None:
    ledger = HoldLedger([a_limit(amount=150)])
    ledger.ask(an_ask(0, 100), NOON_S)
    assert ledger.grow(0, {"tokens": 1}, -60, NOON_S) == -60
    assert ledger.room(an_ask().subjects, "tokens", NOON_S) == 110


def test_an_overrun_is_counted() -> None:
    ledger = HoldLedger([a_limit(amount=120)])
    ledger.ask(an_ask(0, 100), NOON_S)
    assert ledger.grow(0, {"tokens": 1}, 30, NOON_S) == 20
    assert ledger.spent(0, {"tokens": 1}, NOON_S) == a_limit(amount=120)
    ledger.overrun(0, {"tokens": 1}, 30, NOON_S)
    ledger.settle(0, {"tokens": 150}, NOON_S)
    assert ledger.room(an_ask().subjects, "tokens", NOON_S) == 0
    assert isinstance(ledger.ask(an_ask(1, 1), NOON_S), Refused)


def test_a_standing_is_that_of_the_limit_that_leaves_least() -> None:
    day, minute = a_limit(1, amount=1_000), a_limit(2, period="minute", amount=600)
    node = a_limit(4, level="node", subject=None, amount=200)
    ledger = HoldLedger([day, minute, node, a_limit(3, amount=1, effect="warn")])
    ledger.ask(an_ask(0, 100), NOON_S)
    assert ledger.standing(an_ask().subjects, "tokens", NOON_S) == Standing(600, 500, 10.0)
    assert ledger.standing(an_ask().subjects, "tokens", NOON_S + 10) == (Standing(600, 600, 0.0))
    assert ledger.standing(an_ask().subjects, "requests", NOON_S) is None


@given(st.integers(0, 86_400 * 800), st.sampled_from(["day", "month"]))
def test_periods_of_a_budget_follow_the_calendar(after_s: int, period: Period) -> None:
    limit, now_s = a_limit(period=period), NOON_S + after_s
    end_s = period_end_s(limit, now_s)
    assert now_s < end_s <= now_s + (1 if period == "day" else 31) * 86_400
    assert end_s % 86_400 == 0
    assert period_end_s(limit, end_s - 1) == end_s


@dataclass
class Held:
    """A hold as the log has it: its amounts, and their changes by number, time and quantity."""

    subjects: Subjects
    amounts: dict[Quantity, int]
    at_s: float
    changes: list[tuple[int, float, Quantity, int]] = field(default_factory=list)
    settled: bool = False


class EveryEvent(RuleBasedStateMachine):
    """The ledger against a replay of the log of all events, by exact fractions."""

    @initialize(
        limits=st.lists(
            st.builds(
                lambda level, which, quantity, period, amount, effect: (
                    level, which, quantity, period, amount * 60, effect,
                ),
                st.sampled_from(["node", "tenant", "app", "key", "user"]),
                st.integers(0, 1),
                st.sampled_from(["requests", "tokens"]),
                st.sampled_from(["at_once", "minute", "day", "month"]),
                st.integers(1, 6),
                st.sampled_from(["hard", "hard", "soft", "warn"]),
            ),
            min_size=1,
            max_size=5,
        )
    )  # fmt: skip
    def start(self, limits: list[tuple[Level, int, Quantity, Period, int, Effect]]) -> None:
        self.now_s, self.log, self.number, self.events = NOON_S, dict[int, Held](), 0, 0
        subjects: dict[Level, Sequence[UUID | None]] = {
            "node": [None, None],
            "tenant": TENANTS,
            "app": APPS,
            "key": KEYS,
            "user": APPS,
        }
        self.limits = [
            a_limit(
                number,
                level=level,
                subject=subjects[level][which],
                quantity=quantity,
                period=period,
                amount=amount,
                effect=effect,
            )
            for number, (level, which, quantity, period, amount, effect) in enumerate(limits)
        ]
        self.ledger = HoldLedger(self.limits)

    @rule(seconds=st.sampled_from([1, 5, 30, 60, 3_600, 43_200, 86_400 * 25]))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(tokens=st.integers(1, 200), who=st.integers(0, 1), user=st.sampled_from(USERS))
    def ask(self, tokens: int, who: int, user: str | None) -> None:
        self.number += 1
        subjects = Subjects(tenant=TENANTS[who], app=APPS[who], key=KEYS[who], user=user)
        amounts: dict[Quantity, int] = {"tokens": tokens, "requests": 1}
        verdict = self.ledger.ask(
            Ask(
                name=self.number,
                subjects=subjects,
                amounts=amounts,
                expected=amounts,
                ends_s=self.now_s + 10,
            ),
            self.now_s,
        )
        beyond = [
            limit
            for limit in self.limits
            if self.concerns(limit, subjects)
            and amounts[limit.quantity] > self.room(limit, subjects)
        ]
        if any(limit.effect == "hard" for limit in beyond):
            assert isinstance(verdict, Refused)
            assert verdict.limit in beyond
            return
        assert isinstance(verdict, Granted)
        assert set(verdict.beyond) == set(beyond)
        self.log[self.number] = Held(subjects, amounts, self.now_s)
        for quantity, amount in amounts.items():
            self.change(self.log[self.number], quantity, amount)

    @precondition(lambda self: any(not held.settled for held in self.log.values()))
    @rule(data=st.data(), units=st.integers(1, 100))
    def grow(self, data: st.DataObject, units: int) -> None:
        name = data.draw(self.open_names())
        held = self.log[name]
        rooms = [
            max(self.room(limit, held.subjects), 0)
            for limit in self.limits
            if limit.effect == "hard"
            and limit.is_budget
            and limit.quantity == "tokens"
            and self.concerns(limit, held.subjects)
        ]
        granted = self.ledger.grow(name, {"tokens": 1}, units, self.now_s)
        assert granted == min([units, *rooms])
        held.amounts["tokens"] += granted
        self.change(held, "tokens", granted)

    @precondition(lambda self: any(not held.settled for held in self.log.values()))
    @rule(data=st.data(), tokens=st.integers(0, 300))
    def settle(self, data: st.DataObject, tokens: int) -> None:
        name = data.draw(self.open_names())
        held = self.log[name]
        used: dict[Quantity, int] = {"tokens": tokens, "requests": 1}
        self.ledger.settle(name, used, self.now_s)
        held.settled = True
        for quantity, amount in used.items():
            self.change(held, quantity, amount - held.amounts[quantity])
        held.amounts = used

    @invariant()
    def rooms_are_those_of_the_log(self) -> None:
        for who, user in ((0, "ada"), (1, None)):
            subjects = Subjects(tenant=TENANTS[who], app=APPS[who], key=KEYS[who], user=user)
            rooms = [
                max(self.room(limit, subjects), 0)
                for limit in self.limits
                if limit.effect == "hard"
                and limit.quantity == "tokens"
                and self.concerns(limit, subjects)
            ]
            found = self.ledger.room(subjects, "tokens", self.now_s)
            assert found == min(rooms, default=float("inf"))

    def change(self, held: Held, quantity: Quantity, amount: int) -> None:
        self.events += 1
        held.changes.append((self.events, self.now_s, quantity, amount))

    def open_names(self) -> st.SearchStrategy[int]:
        return st.sampled_from([name for name, held in self.log.items() if not held.settled])

    @staticmethod
    def concerns(limit: Limit, subjects: Subjects) -> bool:
        match limit.level:
            case "node":
                return True
            case "user":
                return limit.subject == subjects.app and subjects.user is not None
            case level:
                return bool(limit.subject == getattr(subjects, level))

    def room(self, limit: Limit, subjects: Subjects) -> int:
        """What the limit leaves now, from the whole log."""
        same_user = limit.level != "user" or subjects.user
        holds = [
            held
            for held in self.log.values()
            if self.concerns(limit, held.subjects)
            and (same_user is True or held.subjects.user == subjects.user)
        ]
        match limit.period:
            case "at_once":
                return limit.amount - sum(
                    held.amounts[limit.quantity] for held in holds if not held.settled
                )
            case "minute":
                return self.in_bucket(limit, holds)
            case _:
                end_s = period_end_s(limit, self.now_s)
                return limit.amount - sum(
                    held.amounts[limit.quantity]
                    for held in holds
                    if period_end_s(limit, held.at_s) == end_s
                )

    def in_bucket(self, limit: Limit, holds: list[Held]) -> int:
        changes = sorted(
            change for held in holds for change in held.changes if change[2] == limit.quantity
        )
        level, at_s = Fraction(limit.amount), NOON_S
        for _, when_s, _, amount in changes:
            level = min(level + Fraction(when_s - at_s) * limit.amount / 60, Fraction(limit.amount))
            level, at_s = min(level - amount, Fraction(limit.amount)), when_s
        level += Fraction(self.now_s - at_s) * limit.amount / 60
        return int(min(level, Fraction(limit.amount)) // 1)


TestEveryEvent = EveryEvent.TestCase
TestEveryEvent.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
