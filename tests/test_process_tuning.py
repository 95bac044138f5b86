"""Process-wide settings: changed while a block runs, and restored after it."""

import gc
import sys

import pytest

from csm_trio.process_tuning import SWITCH_INTERVAL_S, tuned_gc, tuned_process


def test_the_garbage_collector_is_restored() -> None:
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    with tuned_gc():
        assert gc.get_threshold()[0] > before[0][0]
        assert gc.isenabled()
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before


def test_a_tuned_process_switches_threads_sooner_and_restores_it_all() -> None:
    before = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
    with tuned_process():
        assert gc.get_threshold()[0] > before[0][0]
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert (gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()) == before
