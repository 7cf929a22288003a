"""``python -m offline.replay``: makes the list of a recommendation again from its decision record (``--help``).

What makes a list is the service's own pipeline, and nothing here may import that: this becomes
``service.decisions.replay``.
"""

import os
import sys


def main() -> None:
    """Replaces this process; its arguments, output and exit code are those of ``service.decisions.replay``."""
    os.execv(sys.executable, [sys.executable, "-m", "service.decisions.replay", *sys.argv[1:]])


if __name__ == "__main__":
    main()
