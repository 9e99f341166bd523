import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.errors import PredictorRefused
from gateway.prediction.model.artefact import decode, encode
from gateway.prediction.training.fitting import JudgedVersion


def test_artefact_round_trips(judged: JudgedVersion) -> None:
    assert decode(encode(judged.artefact), model_hash="abc") == judged.artefact


@settings(deadline=None)
@given(st.data())
def test_artefact_with_any_byte_changed_is_refused(
    judged: JudgedVersion, data: st.DataObject
) -> None:
    stored = bytearray(encode(judged.artefact))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PredictorRefused):
        decode(bytes(stored), model_hash="abc")


@settings(deadline=None)
@given(st.data())
def test_artefact_cut_short_is_refused(judged: JudgedVersion, data: st.DataObject) -> None:
    stored = encode(judged.artefact)
    with pytest.raises(PredictorRefused):
        decode(stored[: data.draw(st.integers(0, len(stored) - 1))], model_hash="abc")


def test_artefact_of_another_model_is_refused_by_name(judged: JudgedVersion) -> None:
    with pytest.raises(PredictorRefused, match="trained for model hash abc, not xyz"):
        decode(encode(judged.artefact), model_hash="xyz")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feature_version": 999}, "feature version 999"),
        ({"inputs": ["one"]}, "feature version"),
        ({"levels": [0.5]}, "other quantiles"),
        ({"trees": []}, "other quantiles"),
    ],
)
def test_artefact_of_another_shape_is_refused(
    judged: JudgedVersion, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(PredictorRefused, match=reason):
        decode(encode(replace(judged.artefact, **changes)), model_hash="abc")


def test_sound_bytes_that_are_no_artefact_are_refused() -> None:
    from_elsewhere = encode(msgspec.convert([], list))  # type: ignore[arg-type]
    with pytest.raises(PredictorRefused, match="cannot be read"):
        decode(from_elsewhere, model_hash="abc")
