"""The sockets' doors: who is let in, the session behind, and how each ends."""

import logging

import trio
from quart import Blueprint, ResponseReturnValue, websocket

from csm_trio.api.doors import House
from csm_trio.api.elevenlabs import fault_response
from csm_trio.errors import EngineFailed, SpeechError, Unauthorized
from csm_trio.pipeline.context import SpeechOrder
from csm_trio.pipeline.session import Session, SessionTerms
from csm_trio.protocol.elevenlabs import SocketQuery, StreamInputProtocol, parse_socket_query
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.faults import socket_fault

logger = logging.getLogger(__name__)

GOODBYE_S = 0.8
"""Between an error frame and the close, as recorded from the vendor: a client whose reader is
not up yet when both arrive at once hangs for ever (LiveKit's plugin)."""

_ROUTE = "/v1/text-to-speech/<voice_id>"


def sockets_blueprint(house: House) -> Blueprint:
    """Return the WebSocket routes."""
    blueprint = Blueprint("sockets", __name__)

    @blueprint.websocket(f"{_ROUTE}/stream-input")
    async def stream_input(voice_id: str) -> ResponseReturnValue | None:
        """Converse: text in while it is being written, speech out while it is being made."""
        try:
            query = parse_socket_query(websocket.args)
            place = house.admission.admit()
        except SpeechError as error:
            # Before the upgrade: the refusal is an HTTP answer with a true status.
            return fault_response(house, error)
        with place:
            await websocket.accept()
            await _converse(house, voice_id, query)
        return None

    return blueprint


async def _converse(house: House, voice_id: str, query: SocketQuery) -> None:
    """Run a session; if it ends in an error, say which, wait, and close with its code."""
    try:
        await _run_session(house, voice_id, query)
    except SpeechError as error:
        house.metrics.refusals.labels(type(error).__name__).inc()
        await _say_goodbye(error)
    except Exception:
        # A door's broad except: what leaves a socket handler would close 1000, as if all
        # had gone well.
        logger.exception("session failed")
        await _say_goodbye(EngineFailed())


async def _run_session(house: House, voice_id: str, query: SocketQuery) -> None:
    admitted = house.admits(websocket.headers, websocket.args)
    needs_key = house.server.api_key is not None and admitted is None
    if admitted is False:
        raise Unauthorized
    voice = house.voices.get(voice_id)

    def open_order(context_id: str, settings: SpeechSettings) -> SpeechOrder:
        return house.order(
            context_id,
            voice,
            query.audio_format,
            query.settings.overridden_by(settings),
            max_audio_len_ms=house.speech.ws_max_audio_len_ms,
        )

    terms = SessionTerms(
        open_order, query.inactivity_timeout_s, house.accepts if needs_key else None
    )
    protocol = StreamInputProtocol(auto_mode=query.auto_mode)
    session = Session(protocol, house.speaker, terms, house.metrics)
    await session.run(_next_message, websocket.send)


async def _next_message() -> str | bytes:
    # quart-trio makes None of an empty message.
    return await websocket.receive() or ""


async def _say_goodbye(error: SpeechError) -> None:
    fault = socket_fault(error)
    await websocket.send(fault.frame())
    with trio.move_on_after(GOODBYE_S):
        while True:  # Reading on: a hang-up must be heard now, too.
            await websocket.receive()
    await websocket.close(fault.code, fault.reason)
