import math

import pytest

from gateway.errors import InvalidRequest
from gateway.tenancy.share import checked_share


@pytest.mark.parametrize("share", [0.01, 1, 2.5, 100])
def test_share_within_the_range_is_accepted(share: float) -> None:
    assert checked_share(share) == share


@pytest.mark.parametrize("share", [0, -1, 0.0099, 100.01, math.inf, math.nan])
def test_share_outside_the_range_is_refused_with_the_range(share: float) -> None:
    with pytest.raises(InvalidRequest, match=r"accepted is 0\.01 to 100") as caught:
        checked_share(share)
    assert caught.value.param == "share"
