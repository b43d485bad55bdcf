"""`python -m cmu_lightning`."""

import sys

from cmu_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
