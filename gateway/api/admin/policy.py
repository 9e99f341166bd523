"""`/admin/policy`: the scheduling policy at work."""

from typing import Annotated, Final, Literal, Self, TypeAlias

from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from gateway.api.admin.actor import area
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.scheduling.control_loop import Fallback
from gateway.scheduling.policy import Options
from gateway.tenancy.scopes import Scope

AdmissionRule: TypeAlias = Literal["own", "peak", "reserved", "maximum", "held"]
AtLeast0: TypeAlias = Annotated[float, Meta(ge=0)]
Weight: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]

OWN: Final = "own"
WHY: Final[dict[Fallback, str]] = {
    "untrusted": "predictions have told too little of the order of lengths lately",
    "short_queue": "so few requests wait that another order would gain nothing",
}


class PolicyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The policy to schedule by; of its options, what is left out stays.

    `admission` is `own` for the policy's own rule. `max_delay_s` null lets a request be put back
    for any time.
    """

    name: str
    admission: AdmissionRule | UnsetType = UNSET
    preempted_share: Share | UnsetType = UNSET
    max_delay_s: AtLeast0 | UnsetType | None = UNSET
    waiting_weight: Weight | UnsetType = UNSET

    def changed(self, options: Options) -> Options:
        """The options with what is given here."""
        given = {name: value for name, value in asdict(self).items() if value is not UNSET}
        del given["name"]
        if given.get("admission") == OWN:
            given["admission"] = None
        return replace(options, **given)


class PolicyAnswer(Struct, frozen=True, kw_only=True):
    """The policy at work, and its options.

    `order` is `arrival` while it falls back on first come, first served; `why` says the reason.
    """

    name: str
    order: Literal["policy", "arrival"]
    why: str | None
    admission: AdmissionRule
    preempted_share: float
    max_delay_s: float | None
    waiting_weight: float

    @classmethod
    def of(cls, scheduler: Scheduler) -> Self:
        """The policy as clients see it."""
        fallback, options = scheduler.fallback, scheduler.options
        return cls(
            name=scheduler.policy.name,
            order=scheduler.policy.order,
            why=WHY[fallback] if fallback else None,
            admission=options.admission or OWN,
            preempted_share=options.preempted_share,
            max_delay_s=options.max_delay_s,
            waiting_weight=options.waiting_weight,
        )


class PolicyController(Controller):
    """Shows and changes the policy of this gateway; at its next start the settings hold again."""

    path = "/policy"
    opt = area(Scope.ENGINE)

    @get(summary="Show the scheduling policy")
    async def show_policy(self, generations: NamedDependency[GenerationService]) -> PolicyAnswer:
        """The policy of this gateway; others on the same database have their own."""
        return PolicyAnswer.of(generations.scheduler)

    @put(summary="Change the scheduling policy")
    async def use_policy(
        self, data: JSONBody[PolicyRequest], generations: NamedDependency[GenerationService]
    ) -> PolicyAnswer:
        """The policy, at work until the next change or start.

        Waiting requests move to it, running ones go on; 400 where there is no such policy. With
        other options it begins anew and has serving times to learn.
        """
        generations.scheduler.use_policy(data.name, data.changed(generations.scheduler.options))
        return PolicyAnswer.of(generations.scheduler)
