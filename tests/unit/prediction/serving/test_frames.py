import io
from uuid import UUID

from gateway.prediction.serving.frames import LoadVersion, ScoreRequest, encode_frame, read_request

ASK = ScoreRequest(7, 1.5, UUID(int=1), b"hash", "Answer.", "hello", b"\0\0\0\0")
LOAD = LoadVersion(UUID(int=2), "abc", b"artefact")


def test_requests_are_read_in_order_until_the_pipe_closes() -> None:
    pipe = io.BytesIO(encode_frame(ASK) + encode_frame(LOAD))
    assert read_request(pipe) == ASK
    assert read_request(pipe) == LOAD
    assert read_request(pipe) is None


def test_frame_cut_short_is_the_end() -> None:
    for cut in (2, 9):
        assert read_request(io.BytesIO(encode_frame(ASK)[:cut])) is None
