"""Where the noise of finished studies comes from, written into the package for the forecasts of `goodhart power`.

Run: python benchmarks/variances.py FOLDER [FOLDER ...], each a study's folder with its tables, for example
runs/studies/quick docs/reproduction/paper. Studies with several responses to a prompt come first.
"""

import sys
from pathlib import Path

from goodhart.variances import SHIPPED, write_shipped

if __name__ == "__main__":
    write_shipped([Path(name) for name in sys.argv[1:]])
    print(SHIPPED.read_text(encoding="utf-8"))
