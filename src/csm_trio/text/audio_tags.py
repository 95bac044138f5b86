"""Audio tags: directions to the speaker in square brackets, as in ElevenLabs' dialogue models."""

import re

MAX_AUDIO_TAG_CHARS = 100
"""Characters within the brackets of an audio tag, at most; what is longer is text."""

AUDIO_TAG = re.compile(rf"\[[^\[\]\n]{{0,{MAX_AUDIO_TAG_CHARS}}}\](?!\()")
"""`[laughs]`; not a link's text."""
