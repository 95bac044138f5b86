"""Requests made from the document: no server error, and no answer that it does not have.

Many more come from the program schemathesis in test_document.py, under the marker `soak`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import trio

from csm_trio.config import Config, SpeechConfig
from support.client_calls import http_client
from support.fakes import SineRunner
from support.schema_checks import can_be_wrong, check_operation, operations
from support.serving import TEST_SERVER, serving
from support.voice_clips import FakeEncoder

GUARD_S = 120.0


async def check_every_operation(data_dir: Path, *, examples: int) -> int:
    """Check every operation by requests that keep to its description and requests that do not."""
    sent = 0
    config = Config(TEST_SERVER, speech=SpeechConfig(data_dir=data_dir, voice_upload=True))
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config, encode=FakeEncoder()) as server:
            async with http_client(server) as client:
                document: dict[str, Any] = (await client.get("/openapi.json")).json()
            for operation in operations(document):
                for negative in (False, True) if can_be_wrong(operation) else (False,):
                    sent += await trio.to_thread.run_sync(
                        partial(
                            check_operation,
                            *(operation, server.url()),
                            negative=negative,
                            examples=examples,
                        )
                    )
            assert server.state.engine.borrowed_slots == 0
    return sent


async def test_every_answer_is_documented_and_every_description_holds(tmp_path: Path) -> None:
    assert await check_every_operation(tmp_path, examples=3) > 100
