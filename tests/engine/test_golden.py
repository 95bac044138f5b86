"""CSM-1B's own weights: our greedy f32 codes against those that transformers' tests expect."""

import numpy as np
import pytest

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_runner
from csm_trio.engine.utterance import Frame, Sampling, Utterance
from csm_trio.errors import StartupError

TEXT = "The past is just a story we tell ourselves."
SPEAKER_ID = 0

# The first frames of EXPECTED_OUTPUT_TOKENS in huggingface/transformers at 00b7f800,
# tests/models/csm/test_modeling_csm.py, test_1b_model_integration_generate_no_audio. They were
# made by Sesame's implementation.
EXPECTED = np.array(
    [
        [
            1656, 629, 723, 1785, 206, 1873, 1059, 1190, 1833, 240, 618, 350, 156, 109, 2010, 452,
            435, 1764, 77, 654, 1133, 908, 1095, 74, 804, 494, 1760, 1343, 1312, 1464, 1657, 324,
        ],
        [
            366, 1532, 1945, 21, 145, 1428, 1417, 1987, 1793, 1444, 356, 1491, 849, 333, 788, 426,
            1423, 1004, 414, 1823, 1169, 257, 1892, 696, 1572, 998, 1098, 523, 390, 1977, 546, 1692,
        ],
        [
            1343, 1382, 1288, 1744, 1685, 1154, 1837, 1156, 1680, 1641, 1479, 1548, 632, 824, 694,
            2010, 671, 1251, 1822, 343, 638, 1372, 696, 1272, 144, 125, 1332, 579, 936, 77, 159,
            357,
        ],
        [
            456, 1534, 349, 274, 1956, 1502, 1268, 1038, 1911, 523, 1360, 1159, 761, 293, 718, 1143,
            63, 705, 168, 550, 413, 1372, 1771, 787, 631, 693, 784, 1789, 2039, 1131, 1601, 918,
        ],
    ]
)  # fmt: skip


@pytest.mark.golden
def test_greedy_codes_of_csm_1b_are_those_of_sesames_implementation() -> None:
    config = EngineConfig(
        model_id="sesame/csm-1b", device="cpu", dtype="f32", max_positions=256, pool_size=1
    )
    try:
        runner = load_runner(config)
    except StartupError as error:  # gated, not granted, no network, too little memory
        pytest.skip(str(error))
    utterance = Utterance(TEXT, SPEAKER_ID, len(EXPECTED), Sampling(temperature=0))
    assert runner.open([(0, utterance)]) == [len(EXPECTED)]
    runner.prefill_all()
    made = [runner.step([0])[0] for _ in EXPECTED]
    codes = [frame.codes for frame in made if isinstance(frame, Frame)]
    np.testing.assert_array_equal(np.stack(codes), EXPECTED)
