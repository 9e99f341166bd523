"""`/admin/policy`: the active scheduling policy."""

from typing import Annotated, Final, Literal, Self, TypeAlias

from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from gateway.api.admin.actor import Actor, area
from gateway.generation.operation.commands import OperatorCommands
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.scheduling.control_loop import Fallback
from gateway.scheduling.lmaas.inner_shares import ShareLevel
from gateway.scheduling.policy import POLICY_NAMES, Options
from gateway.tenancy.scopes import Scope

AdmissionRule: TypeAlias = Literal["own", "peak", "reserved", "maximum", "held"]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Weight: TypeAlias = Annotated[float, Meta(ge=0, le=100)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Size: TypeAlias = Annotated[int, Meta(ge=1)]

OWN: Final = "own"
FALLBACK_REASONS: Final[dict[Fallback, str]] = {
    "untrusted": "recent predictions rank the lengths of answers too poorly",
    "short_queue": "too few requests wait for another order to reduce their waiting",
}


class PolicyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The policy to use; omitted options keep their values.

    `admission` is `own` for the policy's own admission rule. With `max_delay_s` null the time by
    which a request may be delayed is unlimited; with `waste_reads` null, `waste_share` holds.
    """

    name: Annotated[str, Meta(extra_json_schema={"enum": list(POLICY_NAMES)})]
    admission: AdmissionRule | UnsetType = UNSET
    max_delay_s: NonNegative | UnsetType | None = UNSET
    waiting_weight: Weight | UnsetType = UNSET
    fixed_batch: Size | UnsetType = UNSET
    waste_share: Share | UnsetType = UNSET
    waste_reads: NonNegative | UnsetType | None = UNSET
    shares: ShareLevel | UnsetType = UNSET

    def changed(self, options: Options) -> Options:
        """The options, updated with the given fields."""
        given = {name: value for name, value in asdict(self).items() if value is not UNSET}
        del given["name"]
        if given.get("admission") == OWN:
            given["admission"] = None
        return replace(options, **given)


class PolicyAnswer(Struct, frozen=True, kw_only=True):
    """The active policy, and its options.

    `order` is `arrival` while it falls back to first come, first served; `why` gives the reason.
    """

    name: str
    order: Literal["policy", "arrival"]
    why: str | None
    admission: AdmissionRule
    max_delay_s: float | None
    waiting_weight: float
    fixed_batch: int
    waste_share: float
    waste_reads: float | None
    shares: ShareLevel

    @classmethod
    def of(cls, scheduler: Scheduler) -> Self:
        """The policy as clients see it."""
        fallback, options = scheduler.fallback, scheduler.options
        return cls(
            name=scheduler.policy.name,
            order=scheduler.policy.order,
            why=FALLBACK_REASONS[fallback] if fallback else None,
            admission=options.admission or OWN,
            max_delay_s=options.max_delay_s,
            waiting_weight=options.waiting_weight,
            fixed_batch=options.fixed_batch,
            waste_share=options.waste_share,
            waste_reads=options.waste_reads,
            shares=options.shares,
        )


class PolicyController(Controller):
    """Shows and changes the policy of this gateway; a restart returns to the settings."""

    path = "/policy"
    opt = area(Scope.ENGINE)

    @get(summary="Show the scheduling policy")
    async def show_policy(self, service: NamedDependency[GenerationService]) -> PolicyAnswer:
        """The policy of this gateway; other gateways on the same database have their own."""
        return PolicyAnswer.of(service.scheduler)

    @put(summary="Change the scheduling policy")
    async def use_policy(
        self,
        data: JSONBody[PolicyRequest],
        service: NamedDependency[GenerationService],
        commands: NamedDependency[OperatorCommands],
        actor: Actor,
    ) -> PolicyAnswer:
        """The policy, active until the next change or restart.

        Waiting requests move to it, running ones continue. Changed options reset the serving times
        that policies have learned. 400 if there is no such policy.
        """
        options = data.changed(service.scheduler.options)
        commands.use_policy(data.name, options, by=actor)
        return PolicyAnswer.of(service.scheduler)
