/* What the load tools share: clock, sockets, WebSocket frames (RFC 6455), a cursor over JSON text, a latency histogram.
 *
 * The tools must cost far less than the server they load, so nothing here allocates per message, and the JSON cursor
 * locates values without decoding them. Input comes from the server under test and is trusted to be valid JSON. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { WS_TEXT = 1, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
uint64_t now_ns(void); /* CLOCK_MONOTONIC, the clock that Klippy stamps its updates with */
void raise_descriptor_limit(void);
void end_after(unsigned seconds);                  /* no tool outlives its run, whatever happens to its parent */
int tcp_connect(int port, int receive_buffer);     /* blocking connect to 127.0.0.1; receive_buffer 0: the kernel's choice */
int tcp_listen(int port);
int unix_listen(const char *path);
int unix_connect(const char *path);
void make_nonblocking(int fd);
void send_all(int fd, const void *data, size_t bytes); /* of a blocking socket; dies when the peer is gone */

/* A byte string that grows; one per connection for what is unfinished. */
struct text {
    char *data;
    size_t bytes, room;
};
void text_add(struct text *text, const void *data, size_t bytes);
void text_print(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_drop(struct text *text, size_t bytes); /* forget the first bytes */

struct ws_frame {
    int opcode;
    char *payload;
    size_t bytes;
};
/* The frame at the start of data, unmasked in place: bytes it takes, 0 if it is unfinished. Dies on fragments. */
size_t ws_parse(char *data, size_t bytes, struct ws_frame *frame);
void ws_add(struct text *out, int opcode, const char *payload, size_t bytes, int is_masked);
void ws_upgrade_request(struct text *out, int port);
size_t http_head(const char *data, size_t bytes); /* bytes up to and with the empty line, 0 if unfinished */

/* JSON: p points at a value (or at space before it) inside NUL-terminated text. */
const char *json_skip(const char *p);                         /* just behind the value */
const char *json_member(const char *object, const char *key); /* the value of that member, NULL if there is none */
/* Walk an object or an array: start with *p at it, each call gives one member (key is NULL in arrays); 0 at the end. */
struct json_item {
    const char *key, *value;
    int key_bytes, value_bytes;
};
int json_next(const char **p, struct json_item *item);

/* Durations in ns, 32 steps per power of two: percentiles are right within 3 %. */
struct histogram {
    uint64_t steps[64 * 32], count, largest;
};
void histogram_add(struct histogram *h, uint64_t ns);
double histogram_us(const struct histogram *h, double fraction);

#endif
