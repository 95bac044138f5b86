"""Mu-law and A-law against two independent implementations, over all samples and codes."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.audio.g711 import decode_alaw, decode_ulaw, encode_alaw, encode_ulaw

EVERY_SAMPLE = np.arange(-32_768, 32_768, dtype=np.int32).astype(np.int16)
EVERY_CODE = bytes(range(256))


def searched_code(sample: int) -> int:
    """Encode one sample the textbook way: add the bias, find the segment, take four bits."""
    uniform = sample >> 2
    sign = 0x80 if uniform < 0 else 0
    biased = min(abs(uniform), 8_158) + 33
    segment = 0
    while biased >= 64 << segment:
        segment += 1
    step = (biased >> (segment + 1)) - 16
    return 0xFF - (sign + 16 * segment + step)


def searched_alaw_code(sample: int) -> int:
    """Encode one sample by table 1a: the segment is the magnitude's highest bit."""
    uniform = sample >> 3
    magnitude = ~uniform if uniform < 0 else uniform
    segment = max(0, magnitude.bit_length() - 5)
    step = magnitude >> max(1, segment) & 0x0F
    return ((0 if uniform < 0 else 0x80) | segment << 4 | step) ^ 0x55


def test_every_sample_encodes_as_by_segment_search() -> None:
    expected = bytes(searched_code(int(sample)) for sample in EVERY_SAMPLE)
    assert encode_ulaw(EVERY_SAMPLE) == expected
    expected = bytes(searched_alaw_code(int(sample)) for sample in EVERY_SAMPLE)
    assert encode_alaw(EVERY_SAMPLE) == expected


def test_every_sample_and_code_agree_with_audioop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it left the standard library in 3.13
        audioop = pytest.importorskip("audioop")
    assert encode_ulaw(EVERY_SAMPLE) == audioop.lin2ulaw(EVERY_SAMPLE.tobytes(), 2)
    assert decode_ulaw(EVERY_CODE).tobytes() == audioop.ulaw2lin(EVERY_CODE, 2)
    assert encode_alaw(EVERY_SAMPLE) == audioop.lin2alaw(EVERY_SAMPLE.tobytes(), 2)
    assert decode_alaw(EVERY_CODE).tobytes() == audioop.alaw2lin(EVERY_CODE, 2)


@pytest.mark.parametrize(
    ("sample", "code"),
    [(0, 0xFF), (32_767, 0x80), (-32_768, 0x00), (32_124, 0x80), (-32_124, 0x00), (-1, 0x7E)],
)
def test_known_samples_have_their_known_codes(sample: int, code: int) -> None:
    assert encode_ulaw(np.array([sample], dtype=np.int16)) == bytes([code])


@pytest.mark.parametrize(
    ("sample", "code"),
    [(0, 0xD5), (15, 0xD5), (16, 0xD4), (-1, 0x55), (32_767, 0xAA), (-32_768, 0x2A)],
)
def test_known_samples_have_their_known_alaw_codes(sample: int, code: int) -> None:
    assert encode_alaw(np.array([sample], dtype=np.int16)) == bytes([code])


def test_every_decoded_alaw_code_encodes_to_itself() -> None:
    assert encode_alaw(decode_alaw(EVERY_CODE)) == EVERY_CODE


def test_a_decoded_code_encodes_to_itself() -> None:
    again = encode_ulaw(decode_ulaw(EVERY_CODE))
    # Zero has two codes; the negative one cannot be distinguished from the other once decoded.
    assert again == EVERY_CODE.replace(b"\x7f", b"\xff")


def test_a_larger_sample_never_decodes_to_a_smaller_one() -> None:
    for decoded in (
        decode_ulaw(encode_ulaw(EVERY_SAMPLE)),
        decode_alaw(encode_alaw(EVERY_SAMPLE)),
    ):
        assert np.all(np.diff(decoded.astype(np.int32)) >= 0)


@given(st.lists(st.integers(-32_768, 32_767), max_size=50), st.integers(1, 3))
def test_every_sample_is_coded_on_its_own(samples: list[int], stride: int) -> None:
    pcm = np.array(samples, dtype=np.int16)[::stride]
    assert encode_ulaw(pcm) == b"".join(encode_ulaw(pcm[i : i + 1]) for i in range(len(pcm)))
    assert len(decode_ulaw(encode_ulaw(pcm))) == len(pcm)
