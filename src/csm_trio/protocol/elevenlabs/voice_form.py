"""The form fields of ElevenLabs' requests that add or edit a voice in, checked values out.

Fields as the vendor's SDKs send them: `labels` is the text of a JSON object, and comes as `null` or
as an empty text where there are none. `transcript` and `speaker_id` are this server's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from csm_trio.errors import InvalidRequest, MissingField
from csm_trio.protocol.described import Described, Field, Integer, Text
from csm_trio.protocol.fields import FormFields, parse_object
from csm_trio.voices import MAX_CLIPS, MAX_SPEAKER_ID

MAX_NAME_CHARS = 100
MAX_DESCRIPTION_CHARS = 1000
MAX_LABELS = 50
MAX_LABEL_CHARS = 200
TRANSCRIPT_LABEL = "transcript"
"""Label that gives the transcript of a single file, for clients that can send no further field."""


NAME = Text("name", "The voice's name.", max_chars=MAX_NAME_CHARS)
DESCRIPTION = Text("description", "Shown in the lists.", max_chars=MAX_DESCRIPTION_CHARS)
SPEAKER_ID = Integer(
    "speaker_id", "Speaker of the model; else the one that suits the files.", 0, MAX_SPEAKER_ID
)
FILES = Described(
    "files", "Reference clips: 2 to 30 s of speech each.",
    {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": MAX_CLIPS},
)  # fmt: skip
VOICE_FORM: tuple[Field, ...] = (
    NAME,
    FILES,
    Described(
        "transcript", "What is spoken in each of the files, word for word, in their order.",
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_CLIPS},
    ),
    DESCRIPTION,
    Text(
        "labels", "The text of a JSON object of strings, `null`, or empty. Its member "
        f"`{TRANSCRIPT_LABEL}` does as the transcript of a single file.",
    ),
    SPEAKER_ID,
    Text("remove_background_noise", "Ignored."),
)  # fmt: skip
"""The fields of a form that edits a voice."""
NEW_VOICE_FORM: tuple[Field, ...] = (
    replace(NAME, required=True),
    replace(FILES, given={**FILES.given, "minItems": 1}, required=True),
    *VOICE_FORM[2:],
)
"""The fields of a form that adds a voice."""


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
    # An empty text counts as absent.
    last = {name: texts[-1].strip() for name, texts in values.items() if texts}
    fields = FormFields({name: text for name, text in last.items() if text})
    name = NAME.read(fields)
    if name is None and name_required:
        raise MissingField("name")
    labels = _read_labels(fields.text("labels"))
    transcripts = [text.strip() for text in values.get("transcript", ())]
    if labels is not None and TRANSCRIPT_LABEL in labels:
        label = labels.pop(TRANSCRIPT_LABEL).strip()
        transcripts = transcripts or [label]
    speaker_id = SPEAKER_ID.read(fields)
    _check_transcripts(transcripts, files)
    return VoiceForm(
        name, DESCRIPTION.read(fields), labels,
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
