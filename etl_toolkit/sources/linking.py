"""Files under a name of ours: linked where the system allows it, which Windows often does not, else copied."""

from __future__ import annotations

import os
import shutil

from etl_toolkit.model import SourceFile


def link_or_copy(path: str | os.PathLike[str], place: str | os.PathLike[str]) -> bool:
    """Make `place` a symbolic link to `path`, or a hard link, or a copy; return whether it is a link."""
    for link in (os.symlink, os.link):
        try:
            link(path, place)
            return True
        except (OSError, NotImplementedError):
            continue
    shutil.copyfile(path, place)
    return False


def is_linked(file: SourceFile) -> bool:
    """Whether the file is read where its owner may change it, and not from a copy of ours."""
    if file.readable is None or file.path is None:
        return False
    if file.readable.is_symlink():
        return True
    try:
        return file.readable.samefile(file.path)
    except OSError:
        return False
