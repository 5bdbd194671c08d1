"""`python -m rlab`."""

import sys

from rlab.cli.main import main

sys.exit(main())
