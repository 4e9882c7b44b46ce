"""Lets the tests, and the processes that they start, import the benchmarks and the rows made up for them."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]
