"""The data directory after SIGKILL at any moment: every voice in it is whole."""

import random
import subprocess
import sys
import time
from pathlib import Path

from csm_trio.voice_store.directory import VoiceDirectory

WRITER = """
import sys
from pathlib import Path
import numpy as np
from csm_trio.voice_store.directory import StoredClip, VoiceDirectory, VoiceEntry, new_id

directory = VoiceDirectory(Path(sys.argv[1]))
directory.open()
pcm = np.zeros(24_000, np.int16)
print("writing", flush=True)
for number in range(1_000_000):
    clip = StoredClip(f"{number}", "a.wav", pcm)
    entry = VoiceEntry(f"{number}", 0, None, {}, (clip,), number)
    name = new_id()
    voice = directory.add(name, entry)
    kept = StoredClip(f"{number}", "a.wav", None, voice.clips[0])
    more = VoiceEntry(f"changed {number}", 0, None, {}, (kept, clip), number)
    directory.change(name, more)
    directory.write_settings({name: {"speed": 1.0}})
    if number % 3:
        directory.remove(name)
"""


def test_a_killed_writer_leaves_whole_voices(tmp_path: Path) -> None:
    chosen = random.Random(5)
    known: set[str] = set()
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chosen.uniform(0.01, 0.2))  # a moment that nothing decides
            writer.kill()
        directory = VoiceDirectory(tmp_path)
        directory.open()
        voices, problems = directory.read()
        assert problems == []
        assert known <= {voice.voice_id for voice in voices}, "earlier voices stay"
        known = {voice.voice_id for voice in voices}
        for voice in voices:
            count = voice.name.removeprefix("changed ")
            assert len(voice.clips) == (2 if voice.name.startswith("changed") else 1)
            assert all(clip.text == count for clip in voice.clips)
            assert all(clip.file.stat().st_size == 44 + 48_000 for clip in voice.clips)
        assert isinstance(directory.read_settings(), dict)
    assert known
