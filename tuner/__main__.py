"""``python -m tuner``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# `python -m` puts the working folder first: a db.py or random.py that lies there would stand in for a module.
if sys.path[0] == os.getcwd() != str(ROOT):
    sys.path[0] = str(ROOT)

from tuner.cli import main  # noqa: E402

main()
