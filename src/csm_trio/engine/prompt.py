"""Text and past audio become the rows that the backbone is prompted with.

In: a tokenizer file, turns of speech, a text to say. Out: token ids and masks as numpy arrays. It
must not know torch, nor how anything is embedded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import StartupError, TextTooLong

BOS_TOKEN = "<|begin_of_text|>"
EOS_TOKEN = "<|end_of_text|>"
"""The tokens around every text (SesameAILabs/csm, generator.py: Llama 3.2's)."""


class TextTokenizer:
    """Ids of `[speaker]text` between one BOS and one EOS, whatever the file's post-processor adds.

    Text is text: a special token's name inside it is spelled out, never obeyed.
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
        """Read a `tokenizer.json`; `tokenizer_config.json` beside it names unusual BOS and EOS.

        Raises `StartupError` if it cannot be read, if it has no BOS or EOS, or if it has more
        tokens than the model has text embeddings.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
        except OSError as error:
            raise StartupError(f"{path} cannot be read: {error.strerror}.") from error
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
        return self.encode_placed(text, speaker_id=speaker_id)[0]

    def encode_placed(self, text: str, *, speaker_id: int) -> tuple[list[int], list[float]]:
        """Encode, and say of each token of `text` where its middle lies, in characters.

        Those are the last tokens before EOS.
        """
        tag = f"[{speaker_id}]"
        encoding = self._tokenizer.encode(tag + text, add_special_tokens=False)
        places = [
            (max(start, len(tag)) + end) / 2 - len(tag)
            for start, end in encoding.offsets
            if end > len(tag)
        ]
        return [self._bos_id, *encoding.ids, self._eos_id], places


@dataclass(frozen=True, slots=True)
class Prompt:
    """Rows for the backbone: `tokens` int64 and `mask` bool, both [positions, codebooks + 1].

    The last column is text, the others are codebooks; a row's embedding is the sum over the
    columns whose mask is true (SesameAILabs/csm, models.py). The rows before the last are
    the text to say; `places` tells where in it each of them lies, in characters.
    """

    tokens: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    places: Sequence[float] = ()

    @property
    def positions(self) -> int:
        return len(self.tokens)


def build_prompt(
    tokenizer: TextTokenizer,
    turns: Sequence[PromptSegment],
    *,
    speaker_id: int,
    text: str,
    codebooks: int,
    max_positions: int,
) -> Prompt:
    """Lay out the turns that fit, oldest first, then the text to say, in `max_positions` rows.

    Each turn is its text, its frames, and one end-of-speech frame of zeros. Turns are dropped
    whole, oldest first. Raises `TextTooLong` if the text alone does not fit.
    """
    target, places = tokenizer.encode_placed(text, speaker_id=speaker_id)
    if len(target) > max_positions:
        # Fewer characters than the text has, whatever its script: the sentence stays true.
        raise TextTooLong(len(text) * max(0, max_positions) // len(target))
    blocks = [_text_rows(target, codebooks)]
    left = max_positions - len(target)
    for turn in reversed(turns):
        # A frame is a position, a token too: no need to encode a turn whose audio is too long.
        if len(turn.codes) + 1 > left:
            break
        ids = tokenizer.encode(turn.text, speaker_id=turn.speaker_id)
        left -= len(ids) + len(turn.codes) + 1
        if left < 0:
            break
        blocks += [_audio_rows(turn.codes, codebooks), _text_rows(ids, codebooks)]
    blocks.reverse()
    return replace(_stacked(blocks), places=places)


def build_context(
    tokenizer: TextTokenizer, turns: Sequence[PromptSegment], *, codebooks: int
) -> Prompt:
    """Lay out turns alone: what a prompt begins with before anybody knows what it will say."""
    blocks: list[Prompt] = []
    for turn in turns:
        ids = tokenizer.encode(turn.text, speaker_id=turn.speaker_id)
        blocks += [_text_rows(ids, codebooks), _audio_rows(turn.codes, codebooks)]
    return _stacked(blocks)


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartupError(f"{path} cannot be read as JSON: {error}.") from error
    return content if isinstance(content, dict) else {}


def _special_id(
    tokenizer: tokenizers.Tokenizer, path: Path, usual: str, named: str | dict[str, Any] | None
) -> int:
    found = tokenizer.token_to_id(usual)
    if found is None and named is not None:
        name = named.get("content") if isinstance(named, dict) else named
        found = tokenizer.token_to_id(str(name))
    if found is None:
        raise StartupError(f"{path} has no token {usual}, and no other is named in its place.")
    return int(found)
