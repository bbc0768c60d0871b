# kernel.pyx: calls of the kernel that Python has no function for: inotify(7), fallocate(2).
#
# Errors  OSError with the kernel's number, as from the functions of `os`.
# Twin    moonfast/_pure/kernel.py; tests/twins/test_kernel.py.

from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "<sys/inotify.h>" nogil:
    int c_init "inotify_init1"(int flags)
    int c_add_watch "inotify_add_watch"(int fd, const char* path, unsigned int mask)
    int c_rm_watch "inotify_rm_watch"(int fd, int watch)

cdef extern from "<fcntl.h>" nogil:
    int c_fallocate "fallocate"(int fd, int mode, long long offset, long long size)
    int FALLOC_FL_KEEP_SIZE


cdef int checked(int result) except -1:
    if result < 0:
        PyErr_SetFromErrno(OSError)
        return -1
    return result


def inotify_init(int flags):
    return checked(c_init(flags))


def inotify_add_watch(int fd, bytes path not None, unsigned int mask):
    return checked(c_add_watch(fd, path, mask))


def inotify_rm_watch(int fd, int watch):
    checked(c_rm_watch(fd, watch))


def allocate(int fd, long long size):
    cdef int result
    with nogil:
        result = c_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size)
    checked(result)
