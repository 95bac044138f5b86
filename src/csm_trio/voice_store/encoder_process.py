"""Run the program that encodes voices, and wait for its outcomes."""

import logging
import pickle
import re
import sys
from collections.abc import Awaitable, Callable, Sequence

import trio

from csm_trio.errors import StartupError
from csm_trio.voice_store.encoded_voice import EncodingOutcome, EncodingRequest

logger = logging.getLogger(__name__)

EncodeVoices = Callable[[EncodingRequest], Awaitable[Sequence[EncodingOutcome]]]

_PROGRAM = (sys.executable, "-m", "csm_trio.voice_store.encoder_child")
_FIRST_S, _PER_CLIP_S = 300.0, 60.0
"""Seconds that the program may take for loading, and for each clip."""

_EXCEPTION = re.compile(r"^[\w.]+(?:Error|Exception|Interrupt|Exit)(?=:|$)", re.MULTILINE)
"""The type that ends a traceback of Python."""


async def encode_voices(request: EncodingRequest, *arguments: str) -> Sequence[EncodingOutcome]:
    """Prepare and encode voices; return an outcome for each, in order.

    A cancel ends the program. Raises StartupError where nothing can be encoded.
    """
    n_clips = sum(len(voice.clips) for voice in request.voices)
    with trio.move_on_after(_FIRST_S + _PER_CLIP_S * n_clips):
        done = await trio.run_process(
            [*_PROGRAM, *arguments],
            stdin=pickle.dumps(request, pickle.HIGHEST_PROTOCOL),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            # A terminal's signal is the server's to answer.
            start_new_session=True,
        )
        if done.returncode == 0:
            outcomes: Sequence[EncodingOutcome] | str = pickle.loads(done.stdout)
            if isinstance(outcomes, str):
                raise StartupError(outcomes)
            return outcomes
        # The type alone: the message of an exception may quote a transcript.
        errors = _EXCEPTION.findall(done.stderr.decode(errors="replace"))
        logger.error("the encoder of clips ended with %d: %s", done.returncode, errors[-1:])
    raise StartupError("The encoder of clips failed.")
