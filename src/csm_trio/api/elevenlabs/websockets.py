"""ElevenLabs' WebSocket endpoints: admission, authentication, the session, and its close code."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import trio
from quart import Blueprint, ResponseReturnValue, websocket

from csm_trio.api.admission import SessionLease
from csm_trio.api.api_keys import ApiKey
from csm_trio.api.auth import AUTHENTICATION_TIMEOUT_S, CheckKey, check_socket, note_key
from csm_trio.api.elevenlabs.speech import elevenlabs_error_response
from csm_trio.api.responses import check_origin
from csm_trio.api.state import ServerState
from csm_trio.errors import EngineFailed, ServerLeaving, SpeechError, Unauthorized
from csm_trio.pipeline.session import Session, SessionConfig, SocketProtocol
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.elevenlabs.dialogue_socket import DialogueProtocol
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.multi_stream_input import MultiStreamInputProtocol
from csm_trio.protocol.elevenlabs.socket_query import SocketQuery, parse_socket_query
from csm_trio.protocol.elevenlabs.stream_input import StreamInputProtocol
from csm_trio.protocol.events import Authenticate, InEvent, KeepAlive, OpenContext

logger = logging.getLogger(__name__)

ERROR_TO_CLOSE_S = 0.8
"""Seconds between an error message and the close, as recorded from the vendor. Where both arrive
at once before its reader has started, LiveKit's plugin hangs for ever."""

ABORT_TO_CLOSE_S = 0.2
"""The same where the server itself is about to end."""

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


@dataclass(frozen=True, slots=True)
class _Socket:
    """One socket's endpoint: its voice (None for a dialogue), its query and its protocol."""

    state: ServerState
    voice_id: str | None
    query: SocketQuery
    protocol: SocketProtocol


async def _serve_socket(
    state: ServerState, voice_id: str | None, make_protocol: Callable[[SocketQuery], SocketProtocol]
) -> ResponseReturnValue | None:
    """Admit a session, or refuse it before the upgrade with a true HTTP status.

    Without a `voice_id` it is a dialogue, whose messages name the voices. A socket that has shown
    no valid key holds no session: it is accepted, and admitted with its key.
    """
    try:
        check_origin(websocket.headers.get("origin"), websocket.host, state.server.cors_origins)
        query = parse_socket_query(websocket.args, dialogue=voice_id is None)
        shown = await check_socket(
            websocket.headers,
            websocket.args,
            keys=lambda: state.shared.keys,
            redeem_token=state.shared.redeem_token,
        )
        if shown.accepted:
            note_key(shown.key)
            lease = await state.admission.admit(shown.key)
        else:
            counted = state.unauthenticated.enter(websocket.remote_addr or "")
    except SpeechError as error:
        return elevenlabs_error_response(state, error)
    socket = _Socket(state, voice_id, query, make_protocol(query))
    if shown.accepted:
        await _run_and_close(socket, lease)
    else:
        await _authenticate_and_run(socket, shown.check_message, counted)
    return None


async def _authenticate_and_run(
    socket: _Socket,
    check: CheckKey | None,
    counted: AbstractContextManager[None],
) -> None:
    """Wait for the key, then admit and run the session; a wrong key is answered at once."""
    with counted:
        await websocket.accept()
        try:
            begun, key = await _authenticate(socket.protocol, check)
            note_key(key)
            lease = await socket.state.admission.admit(key)
        except SpeechError as error:
            await _close_with_error(socket.state, error)
            return
    await _run_and_close(socket, lease, begun)


async def _authenticate(
    protocol: SocketProtocol, check: CheckKey | None
) -> tuple[list[InEvent], ApiKey]:
    """Read messages up to one with a valid key; return its events and the key.

    Raises Unauthorized where a context opens without one, or none comes in time, and what the
    protocol raises.
    """
    with trio.move_on_after(AUTHENTICATION_TIMEOUT_S):
        while check is not None:
            events = protocol.receive(await _next_message())
            for event in events:
                if isinstance(event, Authenticate):
                    key = await check(event.api_key)
                    if key is not None:
                        return events, key
            if not all(isinstance(event, KeepAlive) for event in events):
                break
    raise Unauthorized


async def _run_and_close(
    socket: _Socket, lease: SessionLease, begun: Sequence[InEvent] = ()
) -> None:
    """Run a session; where it ends in an error, release it, and tell its client."""
    with lease:
        await websocket.accept()  # does nothing where the socket was accepted before its key came
        error = await _run_session(socket, begun)
    if error is not None:
        await _close_with_error(socket.state, error)


async def _run_session(socket: _Socket, begun: Sequence[InEvent]) -> SpeechError | None:
    """Run a session to its end; return the error that ended it early."""
    session = Session(
        socket.protocol, socket.state.synthesizer, _session_config(socket), socket.state.metrics
    )
    try:
        if socket.voice_id is not None:
            socket.state.voices.get(socket.voice_id)
        await session.run(_next_message, websocket.send, begun)
    except SpeechError as error:
        return error
    except Exception:
        # Broad: an error that leaves a socket handler would close the socket with 1000, normal.
        logger.exception("session failed")
        return EngineFailed()
    return None


def _session_config(socket: _Socket) -> SessionConfig:
    state, voice_id, query = socket.state, socket.voice_id, socket.query

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

    return SessionConfig(
        open_spec,
        lambda: state.admission.cancel_reason,
        query.inactivity_timeout_s,
        drain_begun=state.admission.drain_begun,
        drain_s=state.server.drain_s,
        aborted=state.admission.aborted,
        abort_error=lambda: state.admission.abort_error,
    )


async def _next_message() -> str | bytes:
    # quart-trio returns None for an empty binary message.
    message: str | bytes | None = await websocket.receive()
    return b"" if message is None else message


async def _close_with_error(state: ServerState, error: SpeechError) -> None:
    """Send an error, wait, and close with its code; a hang-up cancels this at any time."""
    rendered = socket_error(error)
    if not isinstance(error, ServerLeaving):
        state.metrics.refusals.labels(type(error).__name__).inc()
        await websocket.send(rendered.to_text())
        # A server whose engine has failed ends soon.
        aborted = state.admission.aborted.is_set()
        await trio.sleep(ABORT_TO_CLOSE_S if aborted else ERROR_TO_CLOSE_S)
    await websocket.close(rendered.code, rendered.reason)
