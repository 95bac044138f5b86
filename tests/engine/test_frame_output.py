"""The end of speech: a frame of one code, by the configuration."""

import numpy as np
import pytest

from csm_trio.engine.frame_output import rows_still_speaking


@pytest.mark.parametrize("end", [0, 5])
def test_a_row_ends_on_a_frame_of_the_end_code(end: int) -> None:
    other = 5 - end
    frames = [[end] * 4, [end, end, end, other], [other] * 4, [end, end, other, end]]
    speaking = rows_still_speaking(np.array(frames, np.int16), end=end)
    assert speaking.tolist() == [False, False, True, True]
