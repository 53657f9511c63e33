"""The errors whose message is written for the person at the terminal."""

from __future__ import annotations

import errno

MENDABLE = {
    errno.EACCES: "mend the permissions",
    errno.EPERM: "mend the permissions",
    errno.EROFS: "choose a root that can be written",
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the link that leads back to itself",
    errno.ESTALE: "mount it again, then run the same command again",
    errno.EIO: "the disk or its network failed; then run the same command again",
}
PASSING = frozenset((errno.ESTALE, errno.EIO))  # of these, what another attempt may not meet again


class UserError(Exception):
    """Something a user can mend. Its message is one line (what, where, what to do); the command line prints it bare."""


class PlanOnly(UserError):
    """What can be planned and not be run: `plan` goes on, a run ends with the message."""


def mendable(error: BaseException) -> str | None:
    """The line that tells a user what to mend: a UserError's, or that of a refusal by the disk. None for a bug."""
    if isinstance(error, UserError):
        return str(error).strip()
    if isinstance(error, OSError) and error.errno in MENDABLE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{(error.strerror or '').lower()}; {MENDABLE[error.errno]}"
    return None
