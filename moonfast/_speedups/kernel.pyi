"""Calls of the kernel that Python has no function for. OSError: the kernel refuses, with its number."""

def inotify_init(flags: int) -> int:
    """A new queue of notices; its descriptor. `flags` as of open(2)."""

def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """Watch a path; the number of the watch. Watching it again gives the same."""

def inotify_rm_watch(fd: int, watch: int) -> None:
    """Watch it no more."""

def allocate(fd: int, size: int) -> None:
    """Take the room for `size` bytes from the beginning of a file, whose own size stays (fallocate(2))."""
