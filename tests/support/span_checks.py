"""The laws of what is said beside what was written."""

from csm_trio.text.spans import SpokenText


def assert_tiles(spoken: SpokenText, written: str) -> None:
    """Check the laws of the runs: in order, without gaps, covering both texts."""
    at = (0, 0)
    for run in spoken.runs:
        assert (run.spoken_start, run.written_start) == at
        assert run.spoken_end >= run.spoken_start
        assert run.written_end >= run.written_start
        at = (run.spoken_end, run.written_end)
    assert at == (len(spoken.text), len(written))
    positions = spoken.spoken_positions()
    assert len(positions) == len(written) + 1
    assert positions == sorted(positions)
