"""A folder -> a store that belongs to this process alone, and that nobody else can read."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from worldloom.scene.errors import ServerRefused
from worldloom.scene.worldfolder import make_folder

LOGGER = logging.getLogger(__name__)
PRIVATE = 0o700


def take_store(store: Path) -> int:
    """Make the store, for its owner alone, and lock it; the open file descriptor of the lock.

    Raises:
        ServerRefused: It belongs to somebody else, or another server has it.
        StorageUnwritable: It cannot be made or written.
    """
    existed = store.is_dir()
    make_folder(store)
    found = store.stat()
    if found.st_uid != os.geteuid():
        raise ServerRefused(
            f"the store {store} belongs to user {found.st_uid}, who could change it under this "
            f"server's user {os.geteuid()}; run as that user, or choose another --store"
        )
    if found.st_mode & 0o077:
        if existed:
            LOGGER.warning("the store %s was open to others; it is private from now on", store)
        store.chmod(PRIVATE)
    return lock_store(store)


def lock_store(store: Path) -> int:
    """Take the store's lock for the life of this process; the open file descriptor.

    Raises:
        ServerRefused: Another server has it.
    """
    handle = os.open(store / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ServerRefused(
            f"another server uses the store {store}; stop it, or choose another --store"
        ) from error
    return handle
