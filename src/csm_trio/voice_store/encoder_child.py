"""The program that prepares and encodes voices: a pickled request on stdin, outcomes on stdout.

`python -m csm_trio.voice_store.encoder_child`. A process of its own: a hostile file harms no
other work, and no step waits for the encoding. With `--prepare-only` it loads no model, and there
are no codes.
"""

import os
import pickle
import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.reference_clip import PreparedClip, UnusableClip, prepare_clip
from csm_trio.audio.wav import UnreadableWav, read_wav
from csm_trio.errors import StartupError
from csm_trio.named_files import read_file
from csm_trio.voice_store.encoded_voice import (
    ClipSource,
    EncodedClip,
    EncodedVoice,
    EncodingOutcome,
    EncodingRequest,
    VoiceSource,
)
from csm_trio.voices import MAX_CLIP_BYTES

if TYPE_CHECKING:
    from csm_trio.engine.clip_codes import ClipCodes

PREPARE_ONLY = "--prepare-only"
_NICENESS = 19
_MAX_CPU_S = 1800
"""CPU time after which the kernel ends this process."""
_NO_CODES = np.zeros((0, 0), dtype=np.int16)

_Encode = Callable[[VoiceSource, Sequence[PreparedClip]], tuple[int, list[NDArray[np.int16]]]]


def main(arguments: Sequence[str]) -> int:
    """Serve one request; return the exit status."""
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
    request: EncodingRequest = pickle.load(sys.stdin.buffer)
    # What libraries print must not end up among the outcomes.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        encode = _without_codes if PREPARE_ONLY in arguments else _model_encoder(request)
        outcomes: list[EncodingOutcome] | str = [_encoded(one, encode) for one in request.voices]
    except StartupError as error:
        outcomes = str(error)
    pickle.dump(outcomes, answers.buffer, pickle.HIGHEST_PROTOCOL)
    answers.buffer.flush()
    return 0


def _encoded(voice: VoiceSource, encode: _Encode) -> EncodingOutcome:
    if not voice.clips:
        return EncodedVoice(voice.speaker_ids[0], ())
    try:
        clips = [_prepared(source) for source in voice.clips]
        speaker_id, codes = encode(voice, clips)
    except (UnusableClip, UnreadableWav, StartupError) as error:
        return str(error)
    return EncodedVoice(
        speaker_id,
        tuple(
            EncodedClip(clip.text, clip.pcm, one) for clip, one in zip(clips, codes, strict=True)
        ),
        tuple(warning for clip in clips for warning in clip.warnings),
    )


def _prepared(source: ClipSource) -> PreparedClip:
    data = read_file(source.file, max_bytes=MAX_CLIP_BYTES)
    if source.prepared:
        pcm, _ = read_wav(data)
        return PreparedClip(pcm=pcm, text=source.text, warnings=())
    return prepare_clip(data, source.text)


def _without_codes(
    voice: VoiceSource, clips: Sequence[PreparedClip]
) -> tuple[int, list[NDArray[np.int16]]]:
    return voice.speaker_ids[0], [_NO_CODES for _ in clips]


def _model_encoder(request: EncodingRequest) -> _Encode:
    # Imported here: torch takes seconds, and a check of clips needs none.
    from csm_trio.engine.clip_codes import ClipCodes

    return partial(_with_codes, ClipCodes(request.engine))


def _with_codes(
    encoder: "ClipCodes", voice: VoiceSource, clips: Sequence[PreparedClip]
) -> tuple[int, list[NDArray[np.int16]]]:
    return encoder.encode_voice(voice.speaker_ids, [(clip.text, clip.pcm) for clip in clips])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
