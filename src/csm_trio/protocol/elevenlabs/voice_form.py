"""The form fields of ElevenLabs' requests that add or edit a voice in, checked values out.

Fields as the vendor's SDKs send them: `labels` is the text of a JSON object, and comes as `null` or
as an empty text where there are none. `transcript` and `speaker_id` are this server's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csm_trio.errors import InvalidRequest, MissingField
from csm_trio.protocol.fields import MAX_SPEAKER_ID, QueryFields, parse_object

MAX_NAME_CHARS = 100
MAX_DESCRIPTION_CHARS = 1000
MAX_LABELS = 50
MAX_LABEL_CHARS = 200
TRANSCRIPT_LABEL = "transcript"
"""Label that gives the transcript of a single file, for clients that can send no further field."""


@dataclass(frozen=True, slots=True)
class VoiceForm:
    """The fields beside the files; None where absent. `transcripts` are in the files' order."""

    name: str | None
    description: str | None
    labels: Mapping[str, str] | None
    transcripts: tuple[str, ...]
    speaker_id: int | None


def parse_voice_form(
    values: Mapping[str, Sequence[str]], *, files: int, name_required: bool
) -> VoiceForm:
    """Parse the fields of a form with so many files; unknown ones are ignored.

    Raises MissingField, or InvalidRequest naming the field that is wrong.
    """
    single = {name: texts[-1] for name, texts in values.items() if texts}
    name = _bounded(single, "name", MAX_NAME_CHARS)
    if name is None and name_required:
        raise MissingField("name")
    labels = _read_labels(single.get("labels"))
    transcripts = [text.strip() for text in values.get("transcript", ())]
    if labels is not None and TRANSCRIPT_LABEL in labels:
        label = labels.pop(TRANSCRIPT_LABEL).strip()
        transcripts = transcripts or [label]
    speaker_id = QueryFields({k: v for k, v in single.items() if v}).integer(
        "speaker_id", 0, MAX_SPEAKER_ID
    )
    _check_transcripts(transcripts, files)
    return VoiceForm(
        name, _bounded(single, "description", MAX_DESCRIPTION_CHARS), labels,
        tuple(transcripts) if files else (), speaker_id,
    )  # fmt: skip


def _check_transcripts(transcripts: Sequence[str], files: int) -> None:
    if not files:
        return
    if len(transcripts) != files or not all(transcripts):
        raise InvalidRequest(
            "Each file needs its transcript, the words that are spoken in it: send the form field "
            "'transcript' once for each file, in their order (with a single file, the label "
            f"'{TRANSCRIPT_LABEL}' does as well). There are {files} files and "
            f"{sum(map(bool, transcripts))} transcripts.",
            param="transcript",
        )


def _bounded(single: Mapping[str, str], name: str, max_chars: int) -> str | None:
    """Return a text; an empty one counts as absent."""
    text = single.get(name, "").strip()
    if len(text) > max_chars:
        raise InvalidRequest(f"{name} must have at most {max_chars} characters.", param=name)
    return text or None


def _read_labels(text: str | None) -> dict[str, str] | None:
    if text is None or text.strip() in ("", "null"):
        return None
    try:
        labels = parse_object(text)
    except ValueError:
        raise InvalidRequest(
            "labels must be the text of a JSON object of strings.", param="labels"
        ) from None
    strings = {name: value for name, value in labels.items() if isinstance(value, str)}
    # A transcript is judged with its clip.
    stored = {name: value for name, value in strings.items() if name != TRANSCRIPT_LABEL}
    longest = max((len(part) for item in stored.items() for part in item), default=0)
    if len(strings) < len(labels) or len(labels) > MAX_LABELS or longest > MAX_LABEL_CHARS:
        raise InvalidRequest(
            f"labels must be at most {MAX_LABELS} strings by name, of at most {MAX_LABEL_CHARS} "
            "characters each.",
            param="labels",
        )
    return strings
