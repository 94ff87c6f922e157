"""What a machine runs out of, and files that cannot be used: one line each, with what to do about it."""

from __future__ import annotations

import errno
import os
import re

AGAIN = "then run the command again, with --resume where it trains"

FULL = {
    errno.ENOSPC: f"no space is left on the disk; free some, {AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some space, {AGAIN}",
    errno.EFBIG: f"the file is larger than `ulimit -f` or the file system allows; raise that, {AGAIN}",
}
OPEN = (
    "too many open files; raise the limit, as by `ulimit -n 65536`, or lower the number of loader workers "
    "(learner.workers, --workers)"
)
SHARED = (
    "the memory that loader workers share is full; enlarge /dev/shm (docker: --shm-size=8g), or set learner.workers=0 "
    "(--workers 0)"
)
FEWER = f"lower learner.workers (--workers) or learner.batch_size (--batch-size), {AGAIN}"
USELESS = {
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; change its permissions, or choose another place",
    errno.EPERM: "not permitted; choose another place",
    errno.ENOENT: f"no such file or folder; if it was there, bring it back, {AGAIN}",
    errno.ENOTDIR: "a file is where a folder must be; choose another place",
    errno.EEXIST: "a file is where a folder must be; choose another place",
    errno.EISDIR: "is a folder; name a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: f"the disk cannot be read or written (input/output error); check it, {AGAIN}",
    errno.ESTALE: f"the network file system has lost it; mount it again, {AGAIN}",
}


def of_machine(error: BaseException) -> str:
    """One line for memory, disks, open files or processes that are at their end, as no code can help; else empty."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return placed(error, FULL[error.errno])
    if (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)) or _of_torch(error, _OPEN):
        return OPEN
    if _of_torch(error, _SHARED):
        return SHARED
    if _of_torch(error, _KILLED) and (found := re.search(_KILLED, text)):
        return f"a loader worker (process {found[1]}) was killed, maybe for want of memory; {FEWER}"
    return _out_of_memory(error, text)


def of_file(error: BaseException) -> str:
    """One line for a file or folder that the system refuses; empty for any other error."""
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return "a path holds a NUL character, which no name can have; change it"
    if not isinstance(error, OSError) or isinstance(error, ConnectionError) or error.errno is None:
        return ""
    return placed(error, USELESS.get(error.errno, (error.strerror or str(error)).lower()))


def placed(error: OSError, told: str) -> str:
    """``told`` behind the file that the error is about, where it knows it."""
    return f"{os.fsdecode(error.filename)}: {told}" if isinstance(error.filename, str | bytes) else told


# the messages of torch's allocators, loaders and shared memory, which have no types of their own
_OPEN = r"Too many open files|received 0 items of ancdata"
_SHARED = r"killed by signal: Bus error|unable to (?:write to|allocate|resize|open) .*(?:torch_|shared memory)"
_KILLED = r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal|exited unexpectedly)"
_MEMORY = r"out of memory|can't allocate memory|Cannot allocate memory"


def _of_torch(error: BaseException, pattern: str) -> bool:
    """OSError: a loader worker's comes out as its traceback, without its number."""
    return isinstance(error, RuntimeError | OSError) and re.search(pattern, str(error)) is not None


def _out_of_memory(error: BaseException, text: str) -> str:
    """For an error of Python's, torch's or CUDA's allocator."""
    enomem = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not isinstance(error, MemoryError) and not enomem and not _of_torch(error, _MEMORY):
        return ""
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    told = f" (tried to allocate {wanted[1]})" if wanted else ""
    return (
        f"out of memory{told}; lower learner.batch_size or learner.eval_batch_size (learner.accumulate keeps the size "
        "of a step), strategy.replay, memory.capacity, or the sizes of the scenario and the backbone"
    )
