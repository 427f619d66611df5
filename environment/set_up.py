"""Makes the environment that `make` runs in: ``python3 environment/set_up.py [.venv] [--weights] [--docs]``.

This file is read by whatever Python a machine has, however old, so that it can say that it is too old.
"""

import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        "error: this is Python %d.%d, and 3.10 to 3.13 are supported; name one: make setup PYTHON=python3.11"
        % sys.version_info[:2]
    )

from installer import main

if __name__ == "__main__":
    sys.exit(main())
