"""The collector is calmed while a block runs, and only then."""

import gc

from csm_trio.process_tuning import tuned_gc


def test_the_collector_is_left_as_it_was() -> None:
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    with tuned_gc():
        assert gc.get_threshold()[0] > before[0][0]
        assert gc.isenabled()
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before
