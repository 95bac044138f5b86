"""`python -m csm_trio`."""

import sys

from csm_trio.cli import main

sys.exit(main())
