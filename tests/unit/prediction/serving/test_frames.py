import io
from uuid import UUID

from gateway.prediction.serving.frames import LoadVersion, ScoreRequest, encode_frame, read_request

SCORE_REQUEST = ScoreRequest(7, 1.5, UUID(int=1), b"hash", "Answer.", "hello", b"\0\0\0\0")
LOAD_VERSION = LoadVersion(UUID(int=2), "abc", b"artefact")


def test_requests_are_read_in_order_until_the_pipe_closes() -> None:
    pipe = io.BytesIO(encode_frame(SCORE_REQUEST) + encode_frame(LOAD_VERSION))
    assert read_request(pipe) == SCORE_REQUEST
    assert read_request(pipe) == LOAD_VERSION
    assert read_request(pipe) is None


def test_truncated_frame_ends_the_stream() -> None:
    for cut in (2, 9):
        assert read_request(io.BytesIO(encode_frame(SCORE_REQUEST)[:cut])) is None
