#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void raise_descriptor_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

void end_after(unsigned seconds)
{
    alarm(seconds); /* SIGALRM's default action ends the process */
}

static int checked(int result, const char *what)
{
    if (result < 0)
        die("%s: %s", what, strerror(errno));
    return result;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int tcp_connect(int port, int receive_buffer)
{
    struct sockaddr_in address = loopback(port);
    int on = 1, fd = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    if (receive_buffer)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    checked(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
    return fd;
}

int tcp_listen(int port)
{
    struct sockaddr_in address = loopback(port);
    int on = 1, fd = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    checked(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    checked(listen(fd, 1024), "listen");
    return fd;
}

static struct sockaddr_un unix_address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        die("socket path is too long: %s", path);
    strcpy(address.sun_path, path);
    return address;
}

int unix_listen(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    unlink(path);
    checked(bind(fd, (struct sockaddr *)&address, sizeof address), path);
    checked(listen(fd, 16), "listen");
    return fd;
}

int unix_connect(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    checked(connect(fd, (struct sockaddr *)&address, sizeof address), path);
    return fd;
}

void make_nonblocking(int fd)
{
    checked(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), "fcntl");
}

void send_all(int fd, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes) {
        ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        checked((int)sent, "send");
        at += sent;
        bytes -= (size_t)sent;
    }
}

static void text_reserve(struct text *text, size_t more)
{
    if (text->bytes + more <= text->room)
        return;
    text->room = (text->bytes + more) * 2;
    text->data = realloc(text->data, text->room);
    if (!text->data)
        die("out of memory");
}

void text_add(struct text *text, const void *data, size_t bytes)
{
    text_reserve(text, bytes + 1);
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
    text->data[text->bytes] = 0;
}

void text_print(struct text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    text_reserve(text, 256); /* nearly always enough, and formatting twice is not free */
    size_t bytes = (size_t)vsnprintf(text->data + text->bytes, 256, format, args);
    if (bytes >= 256) {
        text_reserve(text, bytes + 1);
        vsnprintf(text->data + text->bytes, bytes + 1, format, again);
    }
    text->bytes += bytes;
    va_end(again);
    va_end(args);
}

void text_drop(struct text *text, size_t bytes)
{
    text->bytes -= bytes;
    memmove(text->data, text->data + bytes, text->bytes);
}

size_t ws_parse(char *data, size_t bytes, struct ws_frame *frame)
{
    const unsigned char *head = (unsigned char *)data;
    if (bytes < 2)
        return 0;
    if (!(head[0] & 0x80) || (head[0] & 0x70))
        die("a WebSocket frame is fragmented or has reserved bits set: byte 0x%02x", head[0]);
    size_t length = head[1] & 0x7f, header = 2;
    if (length == 126) {
        header = 4;
        if (bytes < header)
            return 0;
        length = (size_t)head[2] << 8 | head[3];
    } else if (length == 127) {
        header = 10;
        if (bytes < header)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | head[i];
    }
    int is_masked = head[1] >> 7;
    header += is_masked ? 4 : 0;
    if (bytes < header + length)
        return 0;
    frame->opcode = head[0] & 0x0f;
    frame->payload = data + header;
    frame->bytes = length;
    if (is_masked)
        for (size_t i = 0; i < length; i++)
            frame->payload[i] ^= data[header - 4 + (i & 3)];
    return header + length;
}

void ws_add(struct text *out, int opcode, const char *payload, size_t bytes, int is_masked)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    unsigned char head[14] = {(unsigned char)(0x80 | opcode)};
    size_t header = 2;
    if (bytes < 126) {
        head[1] = (unsigned char)bytes;
    } else if (bytes < 65536) {
        head[1] = 126;
        head[2] = (unsigned char)(bytes >> 8);
        head[3] = (unsigned char)bytes;
        header = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)(bytes >> (56 - 8 * i));
        header = 10;
    }
    if (is_masked) {
        head[1] |= 0x80;
        memcpy(head + header, mask, 4);
        header += 4;
    }
    text_add(out, head, header);
    text_add(out, payload, bytes);
    if (is_masked) {
        char *at = out->data + out->bytes - bytes;
        for (size_t i = 0; i < bytes; i++)
            at[i] ^= (char)mask[i & 3];
    }
}

void ws_upgrade_request(struct text *out, int port)
{
    text_print(out,
               "GET /websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
               port);
}

size_t http_head(const char *data, size_t bytes)
{
    const char *end = memmem(data, bytes, "\r\n\r\n", 4);
    return end ? (size_t)(end - data) + 4 : 0;
}

static const char *json_space(const char *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
        p++;
    return p;
}

static const char *json_string_end(const char *p) /* p behind the opening quote */
{
    for (; *p && *p != '"'; p++)
        if (*p == '\\' && p[1])
            p++;
    return *p ? p + 1 : p;
}

const char *json_skip(const char *p)
{
    int depth = 0;
    p = json_space(p);
    do {
        if (*p == '"') {
            p = json_string_end(p + 1);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (depth) {
            p++;
        } else {
            p += strcspn(p, ",]} \n\t\r");
        }
    } while (depth && *p);
    return p;
}

int json_next(const char **p, struct json_item *item)
{
    const char *at = json_space(*p);
    int is_object = *at == '{';
    if (*at == '{' || *at == '[')
        at = json_space(at + 1);
    else if (*at == ',')
        at = json_space(at + 1);
    if (!*at || *at == '}' || *at == ']')
        return 0;
    /* Behind the first member the kind of container is known by whether a colon follows the string. */
    item->key = NULL;
    item->key_bytes = 0;
    if (*at == '"') {
        const char *end = json_string_end(at + 1), *colon = json_space(end);
        if (*colon == ':') {
            item->key = at + 1;
            item->key_bytes = (int)(end - at - 2);
            at = json_space(colon + 1);
        } else if (is_object) {
            return 0;
        }
    }
    item->value = at;
    *p = json_skip(at);
    item->value_bytes = (int)(*p - at);
    return 1;
}

const char *json_member(const char *object, const char *key)
{
    struct json_item item;
    if (!object || *json_space(object) != '{')
        return NULL;
    while (json_next(&object, &item))
        if (item.key && strlen(key) == (size_t)item.key_bytes && !memcmp(key, item.key, (size_t)item.key_bytes))
            return item.value;
    return NULL;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    int power = ns < 32 ? 0 : 63 - __builtin_clzll(ns) - 4; /* values below 32 have a step of their own */
    h->steps[power * 32 + (int)(power ? (ns >> (power - 1)) & 31 : ns)]++;
    h->count++;
    if (ns > h->largest)
        h->largest = ns;
}

double histogram_us(const struct histogram *h, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)h->count), seen = 0;
    for (int i = 0; i < 64 * 32; i++) {
        seen += h->steps[i];
        if (seen > wanted) {
            int power = i / 32;
            double low = power ? (double)((uint64_t)(32 + i % 32) << (power - 1)) : i;
            return low / 1000.0;
        }
    }
    return (double)h->largest / 1000.0;
}
