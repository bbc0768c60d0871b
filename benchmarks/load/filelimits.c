/* What is the least that the kernel demands for work with files? The denominator of the budgets for files.
 *
 * One connection after the other, blocking, no more looked at than the request's head:
 *   GET /server/files/gcodes/NAME    sendfile() of that file
 *   POST .../metascan?filename=NAME  the first and the last MiB read, and searched for a line near the end
 *   any other POST                   the body from recv() to write(), into a file "uploaded"
 *
 *   filelimits --port P --folder PATH [--seconds LIMIT]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire.h"

enum { END_BYTES = 1 << 20, BLOCK_BYTES = 1 << 16 };

static void answer(int fd, const char *status, const char *body)
{
    char text[512];
    int bytes = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
    send_all(fd, text, (size_t)bytes);
}

/* The file whose name stands at `name` up to a space; -1 after an answer that there is none. */
static int open_named(int fd, const char *name, struct stat *info)
{
    char path[256];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(name, " "), name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, info))
        answer(fd, "404 Not Found", strerror(errno));
    return file;
}

static void send_file(int fd, const char *name)
{
    struct stat info;
    char head[128];
    int file = open_named(fd, name, &info);
    if (file < 0)
        return;
    int bytes = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)info.st_size);
    send_all(fd, head, (size_t)bytes);
    for (off_t at = 0; at < info.st_size;)
        if (sendfile(fd, file, &at, (size_t)(info.st_size - at)) <= 0)
            break;
    close(file);
}

static void scan_file(int fd, const char *name)
{
    static char ends[2][END_BYTES];
    static const char wanted[] = "; estimated printing time";
    struct stat info;
    int file = open_named(fd, name, &info);
    if (file < 0)
        return;
    ssize_t head = pread(file, ends[0], END_BYTES, 0);
    ssize_t tail = pread(file, ends[1], END_BYTES, info.st_size > END_BYTES ? info.st_size - END_BYTES : 0);
    close(file);
    if (head > 0 && tail > 0 && memmem(ends[1], (size_t)tail, wanted, sizeof wanted - 1))
        answer(fd, "200 OK", "{\"result\":{\"estimated_time\":1,\"thumbnails\":[0,0]}}");
    else
        answer(fd, "404 Not Found", "no such line");
}

/* The body, of which `there` bytes came with the head. */
static void store_body(int fd, const char *start, size_t there, size_t bytes)
{
    static char block[BLOCK_BYTES];
    int file = open("uploaded", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || write(file, start, there) != (ssize_t)there)
        die("uploaded: %s", strerror(errno));
    for (size_t left = bytes - there; left;) {
        ssize_t got = recv(fd, block, left < sizeof block ? left : sizeof block, 0);
        if (got <= 0 || write(file, block, (size_t)got) != got)
            die("an upload ended too early: %s", strerror(errno));
        left -= (size_t)got;
    }
    close(file);
    answer(fd, "201 Created", "{}");
}

static void serve(int fd)
{
    static char request[BLOCK_BYTES + 1];
    size_t bytes = 0, head;
    for (;; bytes = 0) {
        do {
            ssize_t got = recv(fd, request + bytes, BLOCK_BYTES - bytes, 0);
            if (got <= 0)
                return;
            bytes += (size_t)got;
            request[bytes] = 0;
        } while (!(head = http_head(request, bytes)));
        const char *length = strcasestr(request, "\r\ncontent-length:");
        const char *scan = strstr(request, "metascan?filename="), *get = strstr(request, "GET /server/files/gcodes/");
        if (get == request)
            send_file(fd, request + 25);
        else if (scan && scan < request + head)
            scan_file(fd, scan + 18);
        else if (length)
            store_body(fd, request + head, bytes - head, strtoul(length + 17, NULL, 10));
        else
            answer(fd, "404 Not Found", "");
    }
}

int main(int argc, char **argv)
{
    int port = 0;
    unsigned limit = 3600;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--folder")) {
            if (chdir(value))
                die("%s: %s", value, strerror(errno));
        } else if (!strcmp(name, "--seconds"))
            limit = (unsigned)atoi(value);
        else
            die("unknown option %s", name);
    }
    end_after(limit);
    for (int listener = tcp_listen(port);;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        serve(fd);
        close(fd);
    }
}
