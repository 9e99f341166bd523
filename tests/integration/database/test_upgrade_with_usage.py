"""Usage without end users, summed while gateways of the release before insert history."""

import threading
from collections.abc import Callable

import psycopg
from alembic import command

from gateway.database.migration import alembic_config, migrate

# A row of one of two keys and three users, in one of the months of a year, by its number.
ROW = """
    INSERT INTO requests (arrived_at, id, tenant_id, app_id, api_key_id, end_user, model, streamed,
        prompt_tokens, user_input_tokens, max_tokens, temperature, top_p, quantiles,
        prediction_source, feature_version, features, instruction_hash, generation_tokens,
        finish_reason, censored, policy, preemptions, queued_s, response_s)
    SELECT '2026-01-01'::timestamptz + (n %% 12) * interval '31 days', gen_random_uuid(), id, id,
        lpad((n %% 2)::text, 32, '0')::uuid, 'user ' || n %% 3, 'm', false, 20, 10, 100, 1, 1, '{}',
        'prior', 1, '', '', n, 'stop', false, 'lmaas', 0, 0.1, 0.3
    FROM CAST(%s AS integer) AS n, CAST('00000000-0000-0000-0000-000000000001' AS uuid) AS id
"""
KEY = "tenant_id, day, app_id, api_key_id, model, service_tier, price_id"
COUNTS = "requests, failed, prompt_tokens, cached_tokens, generation_tokens"
DIFFERENCE = f"""
    SELECT {KEY}, {", ".join(f"sum({name})" for name in COUNTS.split(", "))} FROM usage_days
    GROUP BY {KEY}
    EXCEPT SELECT {KEY}, {COUNTS} FROM key_usage_days
"""
TOTAL = "SELECT sum(requests), sum(generation_tokens) FROM {}"


def insert_until(url: str, ended: Callable[[], bool]) -> int:
    """Insert rows, a transaction each; the number of the next."""
    number = 24
    with psycopg.connect(url, autocommit=True) as connection:
        while not ended():
            connection.execute(ROW, (number,))
            number += 1
    return number


def upgrade_while_rows_arrive(url: str) -> int:
    """Upgrade from the release before; the number of rows there are then."""
    upgrading = threading.Thread(target=migrate, args=(url,))
    upgrading.start()
    number = insert_until(url, lambda: not upgrading.is_alive())
    upgrading.join()
    return number


def test_rows_that_arrive_during_the_upgrade_are_counted_once(empty_url: str) -> None:
    migrate(empty_url)
    with alembic_config(empty_url) as config:
        command.downgrade(config, "0018")
    with psycopg.connect(empty_url) as connection:
        for number in range(24):
            connection.execute(ROW, (number,))
    rows = upgrade_while_rows_arrive(empty_url)
    with psycopg.connect(empty_url) as connection:
        assert connection.execute(DIFFERENCE).fetchall() == []
        expected = [(rows, sum(range(rows)))]
        for table in ("usage_days", "key_usage_days"):
            assert connection.execute(TOTAL.format(table)).fetchall() == expected
        connection.execute("UPDATE requests SET end_user = NULL, finish_reason = 'error'")
        assert connection.execute(DIFFERENCE).fetchall() == []
        connection.execute("UPDATE requests SET prediction_source = 'imported'")
        for table in ("usage_days", "key_usage_days"):
            assert connection.execute(TOTAL.format(table)).fetchall() == [(None, None)]


def test_upgrade_that_was_interrupted_begins_again(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(ROW, (1,))
        connection.execute("UPDATE key_usage_days SET requests = 7")
        connection.execute("UPDATE alembic_version SET version_num = '0018'")
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(ROW, (13,))
        assert connection.execute(DIFFERENCE).fetchall() == []
        assert connection.execute(TOTAL.format("key_usage_days")).fetchall() == [(2, 14)]
