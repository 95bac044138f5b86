"""The first stage of a context: deltas in, normalized sentences out."""

import math

import trio

from csm_trio.pipeline.spec import ContextProgress, ContextSpec, Sentence, SpeechItem
from csm_trio.pipeline.stream_items import TurnEnd
from csm_trio.protocol.events import AddText, Flush, SpeechSettings
from csm_trio.text.frontend import SpokenSentence, TextFrontend
from csm_trio.text.ssml import Break

MIN_PART_S = 5.0
"""Shortest part, in seconds, into which a sentence is split because of the server's cap."""


async def segment(
    spec: ContextSpec,
    progress: ContextProgress,
    deltas: trio.MemoryReceiveChannel[AddText | Flush],
    sentences: trio.MemorySendChannel[SpeechItem],
) -> None:
    """Segment and normalize deltas into sentences, until the deltas end."""
    settings = spec.settings
    frontend = _frontend(settings, spec)
    index = 0
    turn_begun = False
    with deltas, sentences:

        async def emit(items: list[SpokenSentence]) -> None:
            nonlocal index
            for item in items:
                progress.timeline.mark("segmented")
                progress.emitted += 1
                if isinstance(item, Break):
                    await sentences.send(item)
                    continue
                await sentences.send(Sentence(index, item, settings))
                index += 1

        async def end_turn() -> None:
            nonlocal turn_begun
            if spec.dialogue and turn_begun:
                await sentences.send(TurnEnd())
            turn_begun = False

        async for delta in deltas:
            match delta:
                case AddText(text=text, settings=changes):
                    changed = settings.overridden_by(changes)
                    if changed is not settings and changed != settings:
                        # The buffered text arrived under the old settings.
                        if _same_frontend(settings, changed):
                            await emit(frontend.flush())
                        else:
                            await emit(frontend.finish())
                            frontend = _frontend(changed, spec)
                        if changed.voice_id != settings.voice_id:
                            await end_turn()
                        settings = changed
                    turn_begun = True
                    await emit(frontend.feed(text))
                    progress.backlog.remove(len(text))
                case Flush(hint=hint):
                    await emit(frontend.trigger() if hint else frontend.flush())
                    await end_turn()
                    progress.backlog.remove(0)
        await emit(frontend.finish())


def _frontend(settings: SpeechSettings, spec: ContextSpec) -> TextFrontend:
    # The server's own cap must not end a sentence in mid-word; a client's cap may.
    cap_s = spec.max_audio_len_ms / 1000
    in_parts = settings.max_audio_len_ms is None and cap_s >= MIN_PART_S
    return TextFrontend(
        normalization=settings.normalization or "auto",
        ssml=settings.ssml or False,
        audio_tags=settings.audio_tags or spec.dialogue,
        chunk_lengths=spec.chunk_lengths,
        limit_s=cap_s if in_parts else math.inf,
    )


def _same_frontend(one: SpeechSettings, other: SpeechSettings) -> bool:
    return (one.normalization, one.ssml, one.audio_tags, one.max_audio_len_ms) == (
        other.normalization,
        other.ssml,
        other.audio_tags,
        other.max_audio_len_ms,
    )
