"""A file is written whole or not at all, whatever ends the process."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(final: Path, put: Callable[[Path], object]) -> None:
    """Write beside the final name, then rename, so that nobody ever sees half a file.

    Parameters
    ----------
    final
        The file; replaced if it is there.
    put
        Writes to the path that it is given.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        put(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
