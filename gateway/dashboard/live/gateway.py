"""What live views read: the gateway's parts and their samples."""

from msgspec import Struct

from gateway.dashboard.live.samples import Samples
from gateway.generation.service import GenerationService
from gateway.parts import Parts


class LiveGateway(Struct, frozen=True, eq=False):
    """The running gateway, as live views see it."""

    service: GenerationService
    parts: Parts
    samples: Samples
