"""``python -m service``: settings from ``HATSTAND_*``, then HTTP until a signal ends it."""

import logging
import os
import sys

from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError
from service.logs import configure
from service.settings import Settings, load_settings
from service.workers.listeners import bind, close
from service.workers.number import num_workers

LOGGER = logging.getLogger("service")

_EXIT_CANNOT_START = 2


def main() -> int:
    """Runs the service; returns the process' exit code."""
    configure("INFO", "text")
    try:
        settings = load_settings(os.environ)
        configure(settings.log_level, settings.log_format)
        return _serve(settings)
    except HatstandError as error:
        LOGGER.error("%s", error)
        return _EXIT_CANNOT_START


def _serve(settings: Settings) -> int:
    settings.check_access()
    store = ModelStore(settings.store)
    listeners = bind(settings.host, settings.port)
    try:
        number = num_workers(settings, store)
        # Imported where it is needed: the parent of several workers has no use for torch.
        if number == 1:
            from service.workers.alone import run_alone

            run_alone(settings, listeners)
        from service.workers.parent import run_workers

        return run_workers(settings, listeners, num_workers=number)
    finally:
        close(listeners)


if __name__ == "__main__":
    sys.exit(main())
