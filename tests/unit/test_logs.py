"""The alarms that the page shows."""

from gateway.logs import MAX_ALARMS, MAX_FIELD, RecentAlarms


def test_warnings_are_kept_with_their_count_and_newest_fields() -> None:
    alarms = RecentAlarms()
    for reason in ("first", "second"):
        alarms(None, "", {"event": "engine_lost", "level": "warning", "reason": reason})
    alarms(None, "", {"event": "fine", "level": "info"})
    (alarm,) = alarms.newest(10)
    assert (alarm.event, alarm.count, alarm.fields) == ("engine_lost", 2, {"reason": "second"})


def test_alarms_are_bounded_in_number_and_size() -> None:
    alarms = RecentAlarms()
    for number in range(MAX_ALARMS + 5):
        fields = {f"field {place}": "x" * 10_000 for place in range(100)}
        alarms(None, "", {"event": f"event {number}", "level": "error", **fields})
    kept = alarms.newest(1_000)
    assert len(kept) == MAX_ALARMS
    assert kept[0].event == f"event {MAX_ALARMS + 4}"
    assert sum(map(len, kept[0].fields.values())) <= 8 * MAX_FIELD


def test_the_event_is_passed_on_unchanged() -> None:
    event = {"event": "e", "level": "critical", "exc_info": True}
    assert RecentAlarms()(None, "", event) is event
