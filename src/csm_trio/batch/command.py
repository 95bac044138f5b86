"""The command `csm-trio batch`: parsed flags in, exit status out."""

import argparse
import sys

from csm_trio.batch.flags import read_batch_options
from csm_trio.batch.item import BadInput
from csm_trio.batch.report import EXIT_NOTHING
from csm_trio.batch.run import run_batch


def run_command(flags: argparse.Namespace) -> int:
    """Run a batch; bad input is one sentence on standard error and status 2."""
    try:
        return run_batch(read_batch_options(flags))
    except BadInput as error:
        print(f"csm-trio batch: {error}", file=sys.stderr)
        return EXIT_NOTHING
