"""Where the embedded Redis of a store keeps its data, so that two shops on one machine do not share their users.

The releases before kept the data of every store in ``.hatstand/redis``. That folder belongs to the store that uses it
first; a file in it says which one.
"""

import os
import re
from pathlib import Path

_SHARED = Path(".hatstand/redis")
_DEFAULT_STORE = Path(".hatstand/store")
_OWNER_FILE = "store"


def embedded_directory(store: str, wanted: Path | None) -> Path:
    """The folder, by a name that the settings give or by the store's.

    Args:
        store: The folder or url of the model store.
        wanted: What the settings name, if they do.
    """
    if wanted is not None:
        return wanted
    is_folder = "://" not in store
    name = str(Path(store).absolute()) if is_folder else store
    may_share = Path(store) == _DEFAULT_STORE or _SHARED.is_dir()
    if may_share and _owner(name) == name:
        return _SHARED
    if not is_folder:
        return _SHARED.with_name("redis-" + re.sub(r"[^A-Za-z0-9.]+", "-", store.rstrip("/")))
    return Path(store).with_name(f"{Path(store).absolute().name}-redis")


def _owner(name: str) -> str:
    """Whose the shared folder is; from now on this store's, if it is nobody's."""
    file = _SHARED / _OWNER_FILE
    _SHARED.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x") as new:
            new.write(name)
            new.flush()
            os.fsync(new.fileno())
    except FileExistsError:
        return file.read_text()
    return name
