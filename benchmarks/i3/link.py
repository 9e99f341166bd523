"""A link between host and device, on a machine where both are the same memory."""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor


class Link:
    """Copies take as long as `bytes_s` allows, what copying takes here included; None: no bound.

    The thread that copies sleeps for the rest, and uses no core meanwhile. `copied` counts bytes.
    """

    def __init__(self, bytes_s: float | None) -> None:
        self.bytes_s = bytes_s
        self.copied = 0

    def put_before(self, store: object, *copies: str) -> None:
        """Let copies of a store, methods that return or take a tensor, go over this link."""
        for name in copies:
            setattr(store, name, self._slowed(getattr(store, name)))

    def _slowed(self, copy: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*arguments: Any) -> Any:
            began_s = time.perf_counter()
            result = copy(*arguments)
            tensors = [each for each in (result, *arguments) if isinstance(each, Tensor)]
            size = tensors[0].numel() * tensors[0].itemsize
            self.copied += size
            if self.bytes_s is not None:
                time.sleep(max(size / self.bytes_s - (time.perf_counter() - began_s), 0.0))
            return result

        return slowed
