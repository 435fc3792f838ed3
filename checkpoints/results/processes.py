"""Which process wrote something, and whether it still lives: a mark that a reused process id cannot fake."""

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def this_machine() -> str:
    """What tells this machine, since it was started, from every other: host, boot, process namespace."""
    import platform

    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_mark(pid: int) -> str:
    """A living process with its start time (``"123:4567"``), so that a reused id is told apart; "" for a dead one."""
    if not Path("/proc/self/stat").exists():
        return f"{pid}:" if _answers(pid) else ""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, ValueError):  # gone before it was opened, read, or read to the end
        return ""
    return "" if state in b"ZX" or len(rest) < 19 else f"{pid}:{int(rest[18])}"


def _answers(pid: int) -> bool:
    """Whether a process exists, where there is no /proc to ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
