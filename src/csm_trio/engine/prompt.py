"""Build CSM's prompt: the rows of text tokens and audio codes that the backbone starts from.

In: a tokenizer file, prompt segments, the text to generate. Out: token ids and masks as numpy
arrays. It must not know torch, nor how a row is embedded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import StartupError, TextTooLong
from csm_trio.named_files import read_file, read_json

_MAX_TOKENIZER_BYTES = 256 << 20
BOS_TOKEN = "<|begin_of_text|>"
EOS_TOKEN = "<|end_of_text|>"
"""The tokens around every text (SesameAILabs/csm, generator.py: Llama 3.2's)."""


class TextTokenizer:
    """Encodes `[speaker]text` between one BOS and one EOS; the file's post-processor is ignored.

    A special token's name inside the text is encoded as ordinary characters.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, bos_id: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bos_id = bos_id
        self._eos_id = eos_id

    @classmethod
    def from_file(cls, path: Path, *, text_vocab_size: int | None = None) -> "TextTokenizer":
        """Read a `tokenizer.json`; `tokenizer_config.json` beside it may name other BOS and EOS.

        Raises `StartupError` if it cannot be read, if it has no BOS or EOS, or if it has more
        tokens than the model has text embeddings.
        """
        data = read_file(path, max_bytes=_MAX_TOKENIZER_BYTES)
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except ValueError as error:
            raise StartupError(f"{path} is no tokenizer: {error}.") from error
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if text_vocab_size is not None and size > text_vocab_size:
            raise StartupError(
                f"{path} has {size} tokens, but the model knows {text_vocab_size}: "
                "it belongs to another model."
            )
        named = _named_tokens(path.with_name("tokenizer_config.json"))
        return cls(
            tokenizer,
            bos_id=_special_id(tokenizer, path, BOS_TOKEN, named.get("bos_token")),
            eos_id=_special_id(tokenizer, path, EOS_TOKEN, named.get("eos_token")),
        )

    def encode(self, text: str, *, speaker_id: int) -> list[int]:
        """Encode BOS, `[speaker_id]text` (no space between), EOS."""
        return self.encode_with_positions(text, speaker_id=speaker_id)[0]

    def encode_with_positions(self, text: str, *, speaker_id: int) -> tuple[list[int], list[float]]:
        """Encode as `encode`; return also the middle of each token of `text`, in characters.

        Those are the last tokens before EOS.
        """
        tag = f"[{speaker_id}]"
        encoding = self._tokenizer.encode(tag + text, add_special_tokens=False)
        char_positions = [
            (max(start, len(tag)) + end) / 2 - len(tag)
            for start, end in encoding.offsets
            if end > len(tag)
        ]
        return [self._bos_id, *encoding.ids, self._eos_id], char_positions


@dataclass(frozen=True, slots=True)
class Prompt:
    """Rows for the backbone: `tokens` int64 and `mask` bool, both [positions, codebooks + 1].

    The last column is text, the others are codebooks; a row's embedding is the sum over the
    columns whose mask is true (SesameAILabs/csm, models.py). The rows before the last are the text
    to generate; `char_positions` is the position of each of them in it, in characters.
    """

    tokens: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    char_positions: Sequence[float] = ()

    @property
    def positions(self) -> int:
        return len(self.tokens)


def build_prompt(
    tokenizer: TextTokenizer,
    history: Sequence[PromptSegment],
    *,
    speaker_id: int,
    text: str,
    codebooks: int,
    max_positions: int,
) -> Prompt:
    """Build a prompt of at most `max_positions` rows: the history that fits, then the text.

    A prompt segment is its text, its frames, and one end-of-speech frame of zeros. Segments that
    do not fit are left out whole, oldest first. Raises `TextTooLong` if the text alone does not
    fit.
    """
    target, char_positions = tokenizer.encode_with_positions(text, speaker_id=speaker_id)
    if len(target) > max_positions:
        # The error names fewer characters than the text has, in any script.
        raise TextTooLong(len(text) * max(0, max_positions) // len(target))
    blocks = [_text_rows(target, codebooks)]
    left = max_positions - len(target)
    for segment in reversed(history):
        # A segment whose audio alone is too long need not be encoded.
        if len(segment.codes) + 1 > left:
            break
        ids = tokenizer.encode(segment.text, speaker_id=segment.speaker_id)
        left -= len(ids) + len(segment.codes) + 1
        if left < 0:
            break
        blocks += [_audio_rows(segment.codes, codebooks), _text_rows(ids, codebooks)]
    blocks.reverse()
    return replace(_stacked(blocks), char_positions=char_positions)


def build_context(
    tokenizer: TextTokenizer, segments: Sequence[PromptSegment], *, codebooks: int
) -> Prompt:
    """Build the rows of prompt segments alone, without a text to generate: a voice's prefix."""
    blocks: list[Prompt] = []
    for segment in segments:
        ids = tokenizer.encode(segment.text, speaker_id=segment.speaker_id)
        blocks += [_text_rows(ids, codebooks), _audio_rows(segment.codes, codebooks)]
    return _stacked(blocks)


class PrefixTooLong(ValueError):
    """A voice's clips leave too few positions for speech; the message is one sentence."""


def build_prefix(
    tokenizer: TextTokenizer,
    segments: Sequence[PromptSegment],
    *,
    codebooks: int,
    max_positions: int,
) -> Prompt:
    """Build the rows of a voice's clips; raises PrefixTooLong over `max_positions`."""
    prompt = build_context(tokenizer, segments, codebooks=codebooks)
    if prompt.positions > max_positions:
        raise PrefixTooLong(
            f"The clips and their texts take {prompt.positions} positions of the model's memory, "
            f"and may take {max_positions}: shorten them."
        )
    return prompt


def _stacked(blocks: Sequence[Prompt]) -> Prompt:
    return Prompt(
        tokens=np.concatenate([block.tokens for block in blocks]),
        mask=np.concatenate([block.mask for block in blocks]),
    )


def _text_rows(ids: Sequence[int], codebooks: int) -> Prompt:
    tokens = np.zeros((len(ids), codebooks + 1), dtype=np.int64)
    mask = np.zeros((len(ids), codebooks + 1), dtype=np.bool_)
    tokens[:, -1] = ids
    mask[:, -1] = True
    return Prompt(tokens, mask)


def _audio_rows(codes: npt.NDArray[np.integer[Any]], codebooks: int) -> Prompt:
    tokens = np.zeros((len(codes) + 1, codebooks + 1), dtype=np.int64)
    mask = np.ones((len(codes) + 1, codebooks + 1), dtype=np.bool_)
    tokens[:-1, :-1] = codes
    mask[:, -1] = False
    return Prompt(tokens, mask)


def _named_tokens(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path, max_bytes=_MAX_TOKENIZER_BYTES)
    return content if isinstance(content, dict) else {}


def _special_id(
    tokenizer: tokenizers.Tokenizer, path: Path, default: str, named: str | dict[str, Any] | None
) -> int:
    found = tokenizer.token_to_id(default)
    if found is None and named is not None:
        name = named.get("content") if isinstance(named, dict) else named
        found = tokenizer.token_to_id(str(name))
    if found is None:
        raise StartupError(f"{path} has no token {default}, and no other is named in its place.")
    return int(found)
