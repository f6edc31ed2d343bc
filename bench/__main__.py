"""`python -m bench [pytest options]`: run the suites and print their ratios."""

import sys
from pathlib import Path

import pytest

from bench.options import MEASURE

if __name__ == "__main__":
    folder = Path(__file__).parent
    sys.exit(pytest.main([str(folder), *MEASURE, *sys.argv[1:]]))
