"""ElevenLabs' WebSocket endpoints: admission, authentication, the session, and its close code."""

import logging
from collections.abc import Callable
from functools import partial

import trio
from quart import Blueprint, ResponseReturnValue, websocket

from csm_trio.api.auth import check_socket
from csm_trio.api.elevenlabs.speech import elevenlabs_error_response
from csm_trio.api.state import ServerState
from csm_trio.errors import EngineFailed, ServerLeaving, SpeechError
from csm_trio.pipeline.session import Session, SessionConfig, SocketProtocol
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.elevenlabs.dialogue_socket import DialogueProtocol
from csm_trio.protocol.elevenlabs.errors import CLOSE_GOING_AWAY, socket_error
from csm_trio.protocol.elevenlabs.multi_stream_input import MultiStreamInputProtocol
from csm_trio.protocol.elevenlabs.socket_query import SocketQuery, parse_socket_query
from csm_trio.protocol.elevenlabs.stream_input import StreamInputProtocol
from csm_trio.protocol.events import OpenContext

logger = logging.getLogger(__name__)

ERROR_TO_CLOSE_S = 0.8
"""Seconds between an error message and the close, as recorded from the vendor. Where both arrive
at once before its reader has started, LiveKit's plugin hangs for ever."""

_SPEECH = "/v1/text-to-speech/<voice_id>"
_DIALOGUE = "/v1/text-to-dialogue"


def websockets_blueprint(state: ServerState) -> Blueprint:
    """Return the WebSocket routes."""
    blueprint = Blueprint("sockets", __name__)

    @blueprint.websocket(f"{_SPEECH}/stream-input")
    async def stream_input(voice_id: str) -> ResponseReturnValue | None:
        """Synthesize one context: text in while it is written, audio out while it is made."""
        return await _serve_socket(
            state, voice_id, lambda query: StreamInputProtocol(auto_mode=query.auto_mode)
        )

    @blueprint.websocket(f"{_SPEECH}/multi-stream-input")
    async def multi_stream_input(voice_id: str) -> ResponseReturnValue | None:
        """Synthesize several contexts, so that one may end while the next begins."""
        return await _serve_socket(state, voice_id, _multi_stream_input_protocol)

    @blueprint.websocket(f"{_DIALOGUE}/stream-input")
    async def dialogue() -> ResponseReturnValue | None:
        """Synthesize a dialogue of several voices, each with the others in its prompt."""
        return await _serve_socket(state, None, partial(_dialogue_protocol, state, named=False))

    @blueprint.websocket(f"{_DIALOGUE}/multi-stream-input")
    async def multi_dialogue() -> ResponseReturnValue | None:
        """Synthesize dialogues in several contexts."""
        return await _serve_socket(state, None, partial(_dialogue_protocol, state, named=True))

    return blueprint


def _multi_stream_input_protocol(query: SocketQuery) -> SocketProtocol:
    return MultiStreamInputProtocol(auto_mode=query.auto_mode, sync_alignment=query.sync_alignment)


def _dialogue_protocol(state: ServerState, query: SocketQuery, *, named: bool) -> SocketProtocol:
    def speaker_of(voice_id: str) -> int:
        return state.voices.get(voice_id).speaker_id

    return DialogueProtocol(speaker_of, named_contexts=named)


async def _serve_socket(
    state: ServerState, voice_id: str | None, make_protocol: Callable[[SocketQuery], SocketProtocol]
) -> ResponseReturnValue | None:
    """Admit a session, or refuse it before the upgrade with a true HTTP status.

    Without a `voice_id` it is a dialogue, whose messages name the voices.
    """
    try:
        query = parse_socket_query(websocket.args, dialogue=voice_id is None)
        lease = state.admission.admit()
    except SpeechError as error:
        return elevenlabs_error_response(state, error)
    with lease:
        await websocket.accept()
        await _run_and_close(state, voice_id, query, make_protocol(query))
    return None


async def _run_and_close(
    state: ServerState, voice_id: str | None, query: SocketQuery, protocol: SocketProtocol
) -> None:
    """Run a session; where it ends in an error, send that, wait, and close with its code."""
    try:
        await _run_session(state, voice_id, query, protocol)
    except ServerLeaving as error:
        await websocket.close(CLOSE_GOING_AWAY, error.message)
    except SpeechError as error:
        state.metrics.refusals.labels(type(error).__name__).inc()
        await _close_with_error(error)
    except Exception:
        # Broad: an error that leaves a socket handler would close the socket with 1000, normal.
        logger.exception("session failed")
        await _close_with_error(EngineFailed())


async def _run_session(
    state: ServerState, voice_id: str | None, query: SocketQuery, protocol: SocketProtocol
) -> None:
    authorize = check_socket(
        websocket.headers, websocket.args, api_key=state.server.api_key, tokens=state.tokens
    )
    if voice_id is not None:
        state.voices.get(voice_id)

    def open_spec(opened: OpenContext) -> ContextSpec:
        return state.context_spec(
            opened.context_id,
            state.voices.get(opened.settings.voice_id or voice_id or ""),
            query.audio_format,
            query.settings.overridden_by(opened.settings),
            max_audio_len_ms=state.speech.ws_max_audio_len_ms,
            chunk_lengths=opened.chunk_lengths,
            dialogue=voice_id is None,
            aligned=True,
        )

    config = SessionConfig(
        open_spec,
        query.inactivity_timeout_s,
        authorize,
        drain_begun=state.admission.drain_begun,
        drain_s=state.server.drain_s,
    )
    session = Session(protocol, state.synthesizer, config, state.metrics)
    await session.run(_next_message, websocket.send)


async def _next_message() -> str | bytes:
    # quart-trio returns None for an empty message.
    return await websocket.receive() or ""


async def _close_with_error(error: SpeechError) -> None:
    rendered = socket_error(error)
    await websocket.send(rendered.to_text())
    with trio.move_on_after(ERROR_TO_CLOSE_S):
        while True:  # Keep reading: a hang-up must be noticed now, too.
            await websocket.receive()
    await websocket.close(rendered.code, rendered.reason)
