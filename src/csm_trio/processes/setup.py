"""What the supervisor sends to a child before anything else."""

from dataclasses import dataclass, field
from typing import Literal

from csm_trio.api.api_keys import ApiKeys
from csm_trio.api.tls import Certificate
from csm_trio.config import Config
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.voices import VoiceCatalog

Role = Literal["engine", "worker"]


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """The engine process: `runner_factory` is `module:function`, called with the settings.

    It is called on the device thread and returns the Runner.
    """

    config: Config
    runner_factory: str
    name: str = "engine"


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """A worker: its name in the log, the slots of the engine, the sessions of the server.

    `voice_edits` are the voices' settings edited so far.
    """

    config: Config
    voices: VoiceCatalog
    keys: ApiKeys
    certificate: Certificate | None
    name: str
    slots: int
    sessions: int
    voice_edits: dict[str, VoiceSettings] = field(default_factory=dict)
