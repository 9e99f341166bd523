"""`/admin/policy`: the scheduling policy at work."""

from typing import Self

from litestar import Controller, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api.admin.actor import area
from gateway.generation.service import Generations
from gateway.tenancy.scopes import Scope


class PolicyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The policy to schedule by."""

    name: str


class PolicyAnswer(Struct, frozen=True):
    """The policy at work."""

    name: str

    @classmethod
    def of(cls, generations: Generations) -> Self:
        """The policy as clients see it."""
        return cls(generations.policy)


class PolicyController(Controller):
    """Shows and changes the policy of this gateway; at its next start LMAAS_POLICY holds again."""

    path = "/policy"
    opt = area(Scope.ENGINE)

    @get(summary="Show the scheduling policy")
    async def show_policy(self, generations: NamedDependency[Generations]) -> PolicyAnswer:
        """The policy of this gateway; others on the same database have their own."""
        return PolicyAnswer.of(generations)

    @put(summary="Change the scheduling policy")
    async def use_policy(
        self, data: JSONBody[PolicyRequest], generations: NamedDependency[Generations]
    ) -> PolicyAnswer:
        """The policy, at work until the next change or start.

        Waiting requests move to it, running ones go on; 400 where there is no such policy.
        """
        generations.use_policy(data.name)
        return PolicyAnswer.of(generations)
