"""`rivegs predict` in each process that a launcher starts: ``accelerate launch -m rivegs_mllm.predict RECIPE ...``.

The processes share the posts; see `prediction/run.py`.
"""

from __future__ import annotations

import sys

from rivegs_mllm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
