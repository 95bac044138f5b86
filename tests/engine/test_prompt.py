"""Prompts are laid out as Sesame's reference and transformers lay them out."""

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


def _turn(text: str, frames: int, *, speaker_id: int = 0, seed: int = 0) -> PromptSegment:
    codes = np.random.default_rng(seed).integers(1, 32, size=(frames, CODEBOOKS))
    return PromptSegment(speaker_id, text, codes.astype(np.int16))


def _build(
    tokenizer: TextTokenizer, *turns: PromptSegment, text: str = "ok", max_positions: int = 2048
) -> Prompt:
    return build_prompt(
        tokenizer,
        turns,
        speaker_id=0,
        text=text,
        codebooks=CODEBOOKS,
        max_positions=max_positions,
    )


def test_text_tokens_have_their_character_positions(tokenizer: TextTokenizer) -> None:
    ids, char_positions = tokenizer.encode_with_positions("Hé, 好.", speaker_id=12)
    assert ids == tokenizer.encode("Hé, 好.", speaker_id=12)
    assert char_positions == [0.5, 1.5, 1.5, 2.5, 3.5, 4.5, 4.5, 4.5, 5.5]
    prompt = _build(tokenizer, _turn("before", 3), text="ab")
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
def test_the_file_s_post_processor_changes_nothing(
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
def test_no_text_can_name_a_special_token(
    text: str, token: str, more: str, tokenizer: TextTokenizer
) -> None:
    first, *middle, last = tokenizer.encode(text + token + more, speaker_id=0)
    assert (first, last) == (BOS_ID, EOS_ID)
    assert all(token_id < BOS_ID for token_id in middle)
    assert len(middle) == len(f"[0]{text}{token}{more}".encode())


def test_the_embedded_voice_s_tokenizer_spells_bytes() -> None:
    files = locate_checkpoint(weights_path=None, model_id=None, model_file=None)
    first, *middle, last = TextTokenizer.from_file(files.tokenizer).encode("é.", speaker_id=0)
    assert len(middle) == len("[0]é.".encode())
    assert all(token_id < min(first, last) for token_id in middle)


def test_tokens_of_other_names_come_from_the_tokenizer_s_configuration(tmp_path: Path) -> None:
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


def test_a_tokenizer_that_cannot_be_used_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        TextTokenizer.from_file(path)
    path.write_text('{"model": 3}')
    with pytest.raises(StartupError, match="is no tokenizer"):
        TextTokenizer.from_file(path)
    with pytest.raises(StartupError, match="has 261 tokens, but the model knows 100"):
        TextTokenizer.from_file(tiny / "tokenizer.json", text_vocab_size=100)


def test_rows_are_text_then_frames_then_one_frame_of_zeros(tokenizer: TextTokenizer) -> None:
    turn = _turn("a", 3, speaker_id=1)
    prompt = _build(tokenizer, turn, text="b")
    past, target = tokenizer.encode("a", speaker_id=1), tokenizer.encode("b", speaker_id=0)
    frames = slice(len(past), len(past) + 3)
    assert prompt.positions == len(past) + 3 + 1 + len(target)
    assert prompt.tokens.dtype == np.int64
    assert prompt.tokens[: len(past), -1].tolist() == past
    assert prompt.tokens[-len(target) :, -1].tolist() == target
    assert (prompt.tokens[frames, :-1] == turn.codes).all()
    assert not prompt.tokens[frames.stop].any()
    audio = np.zeros(prompt.positions, dtype=bool)
    audio[frames.start : frames.stop + 1] = True
    assert (prompt.mask[:, :-1] == audio[:, None]).all()
    assert (prompt.mask[:, -1] == ~audio).all()
    assert not prompt.tokens[~prompt.mask].any()


def test_a_prompt_embeds_as_transformers_embeds_it(tiny: Path, tokenizer: TextTokenizer) -> None:
    reference = load_reference(tiny)
    samples = torch.randn(1, 1, 5 * 1920, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        codes = reference.codec_model.encode(samples).audio_codes[0].T  # [frames, codebooks]
        turn = PromptSegment(1, "How are you?", codes.numpy())
        past = tokenizer.encode(turn.text, speaker_id=1)
        target = tokenizer.encode("Fine.", speaker_id=0)
        theirs = reference._merge_input_ids_with_input_values(
            torch.tensor([[*past, *[AUDIO_ID] * 5, AUDIO_EOS_ID, *target]]),
            samples[0].unsqueeze(0),
            torch.tensor([[samples.shape[-1]]]),
        )["inputs_embeds"][0]
        ours = _embed(reference, _build(tokenizer, turn, text="Fine."))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


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
def test_the_newest_whole_turns_that_fit_are_kept(
    frames: list[int], text: str, max_positions: int, tokenizer: TextTokenizer
) -> None:
    turns = [_turn(f"turn {i}", count, seed=i) for i, count in enumerate(frames)]
    target = len(tokenizer.encode(text, speaker_id=0))
    if target > max_positions:
        with pytest.raises(TextTooLong) as caught:
            _build(tokenizer, *turns, text=text, max_positions=max_positions)
        assert caught.value.limit_chars <= len(text)
        return
    prompt = _build(tokenizer, *turns, text=text, max_positions=max_positions)
    sizes = [len(tokenizer.encode(turn.text, speaker_id=0)) + len(turn.codes) + 1 for turn in turns]
    totals = [target + sum(sizes[start:]) for start in range(len(sizes) + 1)]
    assert prompt.positions == max(total for total in totals if total <= max_positions)
    whole = _build(tokenizer, *turns, text=text)
    assert (prompt.tokens == whole.tokens[len(whole.tokens) - prompt.positions :]).all()


def test_a_text_that_does_not_fit_is_told_a_shorter_length(tokenizer: TextTokenizer) -> None:
    with pytest.raises(TextTooLong) as caught:
        _build(tokenizer, text="word " * 100, max_positions=105)
    assert 90 <= caught.value.limit_chars <= 105
