"""Prompts have the layout of Sesame's reference and of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from csm_trio.engine.prompt import Prompt, TextTokenizer, build_prompt
from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import StartupError, TextTooLong
from csm_trio.model.checkpoint.locate import locate_checkpoint
from support.tiny_csm import (
    AUDIO_EOS_ID,
    AUDIO_ID,
    BOS_ID,
    CODEBOOKS,
    EOS_ID,
    SPECIAL_TOKENS,
    load_reference,
    write_tiny_checkpoint,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> TextTokenizer:
    return TextTokenizer.from_file(tiny / "tokenizer.json")


def _segment(text: str, frames: int, *, speaker_id: int = 0, seed: int = 0) -> PromptSegment:
    codes = np.random.default_rng(seed).integers(1, 32, size=(frames, CODEBOOKS))
    return PromptSegment(speaker_id, text, codes.astype(np.int16))


def _build(
    tokenizer: TextTokenizer, *history: PromptSegment, text: str = "ok", max_positions: int = 2048
) -> Prompt:
    return build_prompt(
        tokenizer,
        history,
        speaker_id=0,
        text=text,
        codebooks=CODEBOOKS,
        max_positions=max_positions,
    )


def test_text_tokens_have_their_character_positions(tokenizer: TextTokenizer) -> None:
    ids, char_positions = tokenizer.encode_with_positions("Hé, 好.", speaker_id=12)
    assert ids == tokenizer.encode("Hé, 好.", speaker_id=12)
    assert char_positions == [0.5, 1.5, 1.5, 2.5, 3.5, 4.5, 4.5, 4.5, 5.5]
    prompt = _build(tokenizer, _segment("before", 3), text="ab")
    assert prompt.char_positions == [0.5, 1.5]
    assert prompt.tokens[-3:-1, -1].tolist() == tokenizer.encode("ab", speaker_id=0)[-3:-1]


def test_text_stands_between_one_bos_and_one_eos(tokenizer: TextTokenizer, tiny: Path) -> None:
    ids = tokenizer.encode("Hi there.", speaker_id=7)
    plain = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    spelled = plain.encode("[7]Hi there.", add_special_tokens=False).ids
    assert ids == [BOS_ID, *spelled, EOS_ID]


@pytest.mark.parametrize(
    "post_processor",
    [
        "$A",
        "<|begin_of_text|> $A",
        "<|begin_of_text|> $A <|end_of_text|>",
    ],
)
def test_the_files_post_processor_is_ignored(
    post_processor: str, tokenizer: TextTokenizer, tiny: Path, tmp_path: Path
) -> None:
    other = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    other.post_processor = processors.TemplateProcessing(
        single=post_processor,
        special_tokens=[(token, BOS_ID + i) for i, token in enumerate(SPECIAL_TOKENS)],
    )
    other.enable_truncation(4)
    other.enable_padding(length=64)
    other.save(str(tmp_path / "tokenizer.json"))
    encoded = TextTokenizer.from_file(tmp_path / "tokenizer.json").encode("Hello!", speaker_id=0)
    assert encoded == tokenizer.encode("Hello!", speaker_id=0)


@given(text=st.text(max_size=30), token=st.sampled_from(SPECIAL_TOKENS), more=st.text(max_size=9))
def test_a_special_tokens_name_in_a_text_is_encoded_as_characters(
    text: str, token: str, more: str, tokenizer: TextTokenizer
) -> None:
    first, *middle, last = tokenizer.encode(text + token + more, speaker_id=0)
    assert (first, last) == (BOS_ID, EOS_ID)
    assert all(token_id < BOS_ID for token_id in middle)
    assert len(middle) == len(f"[0]{text}{token}{more}".encode())


def test_the_embedded_voices_tokenizer_encodes_bytes() -> None:
    files = locate_checkpoint(weights_path=None, model_id=None, model_file=None)
    first, *middle, last = TextTokenizer.from_file(files.tokenizer).encode("é.", speaker_id=0)
    assert len(middle) == len("[0]é.".encode())
    assert all(token_id < min(first, last) for token_id in middle)


def test_other_bos_and_eos_names_come_from_the_tokenizer_configuration(tmp_path: Path) -> None:
    other = Tokenizer.from_str(
        '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "merges": [],'
        '"vocab": {"<s>": 0, "</s>": 1, "[": 2, "0": 3, "]": 4, "a": 5}}}'
    )
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StartupError, match=r"has no token <\|begin_of_text\|>"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": {"content": "</s>"}}'
    )
    encoded = TextTokenizer.from_file(tmp_path / "tokenizer.json").encode("a", speaker_id=0)
    assert encoded == [0, 2, 3, 4, 5, 1]


def test_an_unusable_tokenizer_is_one_error_sentence(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        TextTokenizer.from_file(path)
    path.write_text('{"model": 3}')
    with pytest.raises(StartupError, match="is no tokenizer"):
        TextTokenizer.from_file(path)
    with pytest.raises(StartupError, match="has 261 tokens, but the model knows 100"):
        TextTokenizer.from_file(tiny / "tokenizer.json", text_vocab_size=100)


def test_rows_are_text_then_frames_then_one_frame_of_zeros(tokenizer: TextTokenizer) -> None:
    segment = _segment("a", 3, speaker_id=1)
    prompt = _build(tokenizer, segment, text="b")
    past, target = tokenizer.encode("a", speaker_id=1), tokenizer.encode("b", speaker_id=0)
    frames = slice(len(past), len(past) + 3)
    assert prompt.positions == len(past) + 3 + 1 + len(target)
    assert prompt.tokens.dtype == np.int64
    assert prompt.tokens[: len(past), -1].tolist() == past
    assert prompt.tokens[-len(target) :, -1].tolist() == target
    assert (prompt.tokens[frames, :-1] == segment.codes).all()
    assert not prompt.tokens[frames.stop].any()
    audio = np.zeros(prompt.positions, dtype=bool)
    audio[frames.start : frames.stop + 1] = True
    assert (prompt.mask[:, :-1] == audio[:, None]).all()
    assert (prompt.mask[:, -1] == ~audio).all()
    assert not prompt.tokens[~prompt.mask].any()


def test_a_prompts_embedding_equals_that_of_transformers(
    tiny: Path, tokenizer: TextTokenizer
) -> None:
    reference = load_reference(tiny)
    samples = torch.randn(1, 1, 5 * 1920, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        codes = reference.codec_model.encode(samples).audio_codes[0].T  # [frames, codebooks]
        segment = PromptSegment(1, "How are you?", codes.numpy())
        past = tokenizer.encode(segment.text, speaker_id=1)
        target = tokenizer.encode("Fine.", speaker_id=0)
        expected = reference._merge_input_ids_with_input_values(
            torch.tensor([[*past, *[AUDIO_ID] * 5, AUDIO_EOS_ID, *target]]),
            samples[0].unsqueeze(0),
            torch.tensor([[samples.shape[-1]]]),
        )["inputs_embeds"][0]
        embedded = _embed(reference, _build(tokenizer, segment, text="Fine."))
    torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-6)


def _embed(reference: Any, prompt: Prompt) -> torch.Tensor:
    """Sum the unmasked columns' embeddings, as Sesame's models.py does."""
    tokens, mask = torch.from_numpy(prompt.tokens), torch.from_numpy(prompt.mask)
    tables = reference.backbone_model.embed_tokens.embed_audio_tokens.weight
    rows = tokens[:, :-1] + torch.arange(CODEBOOKS) * reference.config.vocab_size
    audio = (tables[rows] * mask[:, :-1, None]).sum(dim=1)
    summed: torch.Tensor = audio + reference.embed_text_tokens(tokens[:, -1]) * mask[:, -1:]
    return summed


@given(
    frames=st.lists(st.integers(0, 30), max_size=6),
    text=st.text(max_size=20),
    max_positions=st.integers(0, 150),
)
def test_the_newest_complete_segments_that_fit_are_kept(
    frames: list[int], text: str, max_positions: int, tokenizer: TextTokenizer
) -> None:
    history = [_segment(f"turn {i}", count, seed=i) for i, count in enumerate(frames)]
    target = len(tokenizer.encode(text, speaker_id=0))
    if target > max_positions:
        with pytest.raises(TextTooLong) as caught:
            _build(tokenizer, *history, text=text, max_positions=max_positions)
        assert caught.value.limit_chars <= len(text)
        return
    prompt = _build(tokenizer, *history, text=text, max_positions=max_positions)
    sizes = [
        len(tokenizer.encode(segment.text, speaker_id=0)) + len(segment.codes) + 1
        for segment in history
    ]
    totals = [target + sum(sizes[start:]) for start in range(len(sizes) + 1)]
    assert prompt.positions == max(total for total in totals if total <= max_positions)
    unbounded = _build(tokenizer, *history, text=text)
    assert (prompt.tokens == unbounded.tokens[len(unbounded.tokens) - prompt.positions :]).all()


def test_a_text_that_does_not_fit_raises_with_a_shorter_length(tokenizer: TextTokenizer) -> None:
    with pytest.raises(TextTooLong) as caught:
        _build(tokenizer, text="word " * 100, max_positions=105)
    assert 90 <= caught.value.limit_chars <= 105
