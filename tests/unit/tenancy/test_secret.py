"""Secrets of API keys."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.tenancy.secret import KEY_PREFIX, digest, new_secret, prefix


def test_secrets_have_the_prefix_and_never_repeat() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(
        secret.startswith(KEY_PREFIX) and len(secret) >= len(KEY_PREFIX) + 43 for secret in secrets
    )


def test_prefix_is_a_small_part_of_a_generated_secret() -> None:
    secret = new_secret()
    assert secret.startswith(prefix(secret))
    assert len(prefix(secret)) == len(KEY_PREFIX) + 4


@given(st.text(min_size=8, max_size=40))
def test_prefix_of_a_chosen_secret_shows_none_of_it(secret: str) -> None:
    assert prefix(secret) == "sha256:" + digest(secret).hex()[:4]
