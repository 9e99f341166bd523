"""Follows the active version in Postgres, so that gateways need no restart."""

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.notify import POLL_S, Subscription
from gateway.errors import DatabaseLost, NotFound, PredictorRefused, Unavailable
from gateway.garbage import return_freed_memory
from gateway.prediction.lifecycle.registry import CHANNEL, Registry
from gateway.prediction.serving.predictor import LengthPredictor

log = structlog.get_logger()


class PredictorListener:
    """Activates the model's active version in a predictor after each change."""

    def __init__(
        self,
        registry: Registry,
        predictor: LengthPredictor,
        database_url: str,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._registry = registry
        self._predictor = predictor
        self._refused: bytes | None = None
        self._followed: bytes | None = None
        self._subscription = Subscription(database_url, CHANNEL, self.follow, poll_s=poll_s)

    async def start(self) -> None:
        """Load the active version, then follow changes in the background."""
        await self.follow()
        self._subscription.start("predictor listener")

    async def close(self) -> None:
        """Stop following."""
        await self._subscription.close()

    async def follow(self) -> None:
        """Load the active version if its id or its bytes differ from the one in use.

        A version that cannot be used is logged, a refused one only once; the previous one stays.
        """
        checksum: bytes | None = None
        try:
            in_use = await self._registry.in_use(self._predictor.model)
            if in_use is None:
                return
            active, checksum = in_use
            if checksum == self._refused or (
                active == self._predictor.active and checksum == self._followed
            ):
                return
            artefact = await self._registry.artefact(active)
            await self._predictor.activate(active, artefact)
            self._followed = checksum
            del artefact
            await return_freed_memory()
        except PredictorRefused as refused:
            self._refused = checksum
            log.error("predictor_version_refused", predictor=str(active), reason=refused.message)
        except (Unavailable, DatabaseLost, NotFound) as error:
            log.warning("predictor_version_not_followed", reason=error.message)
        except SQLAlchemyError as error:  # a damaged row hinders no start
            log.error("predictor_version_not_followed", reason=repr(error))
