/* What is the least that the kernel demands for the same work? The denominator of every budget.
 *
 * One process on epoll that looks at no more bytes than it must: a WebSocket upgrade is accepted, any JSON-RPC request
 * gets a canned result under its id, any HTTP request a canned answer on a connection kept alive.
 *
 *   limits --port P --klippy PATH --mode fanout   subscribes to Klippy, and sends each update to each client with one send()
 *   limits --port P --klippy PATH --mode relay    JSON-RPC request -> Klippy -> reply under the same id
 *   limits --port P --reply-bytes B --mode echo   answers at once, with a result of B bytes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

struct peer {
    int fd, is_websocket, is_subscribed;
    struct text rest; /* an unfinished request */
};

static struct peer klippy = {.fd = -1}, *subscribers[4096], *last_caller;
static int subscriber_count, epoll_fd, is_relay;
static struct text canned; /* a JSON string as the result of every request */

static void watch(struct peer *peer)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, peer->fd, &event);
}

static void accept_peer(int listener)
{
    int on = 1;
    struct peer *peer = calloc(1, sizeof *peer);
    peer->fd = accept(listener, NULL, NULL);
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(peer);
}

static void peer_drop(struct peer *peer)
{
    for (int i = 0; i < subscriber_count; i++)
        if (subscribers[i] == peer)
            subscribers[i--] = subscribers[--subscriber_count];
    if (last_caller == peer)
        last_caller = NULL;
    close(peer->fd);
    free(peer->rest.data);
    free(peer);
}

/* The answer to an upgrade needs SHA-1; the swarm and the caller always send the key of RFC 6455 1.3, whose answer it gives. */
static void answer_http(struct peer *peer, const char *head, size_t bytes, struct text *out)
{
    if (memmem(head, bytes, "Upgrade: websocket", 18)) {
        peer->is_websocket = 1;
        text_print(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    } else {
        text_print(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", canned.bytes);
        text_add(out, canned.data, canned.bytes);
    }
}

/* The id of a request: the callers write it last, or in front of "params". */
static const char *request_id(const char *request, size_t bytes, size_t *id_bytes)
{
    const char *id = memmem(request, bytes, "\"id\":", 5);
    if (!id)
        die("no id in %.*s", (int)bytes, request);
    id += 5;
    *id_bytes = strspn(id, "0123456789");
    return id;
}

static void answer_request(struct peer *peer, const struct ws_frame *frame, struct text *out)
{
    static struct text reply;
    size_t id_bytes;
    const char *id = request_id(frame->payload, frame->bytes, &id_bytes);
    int is_query = memmem(frame->payload, frame->bytes, "printer.objects.query", 21) != NULL;
    if (!peer->is_subscribed && memmem(frame->payload, frame->bytes, "printer.objects.subscribe", 25)) {
        peer->is_subscribed = 1;
        subscribers[subscriber_count++] = peer;
    }
    if (is_relay && is_query) {
        const char *params = memmem(frame->payload, frame->bytes, "\"params\":", 9);
        if (!params)
            die("no params in %.*s", (int)frame->bytes, frame->payload);
        params += 9;
        reply.bytes = 0;
        text_print(&reply, "{\"id\":%.*s,\"method\":\"objects/query\",\"params\":%.*s}\x03", (int)id_bytes, id,
                   (int)(json_skip(params) - params), params);
        last_caller = peer;
        send_all(klippy.fd, reply.data, reply.bytes);
        return;
    }
    reply.bytes = 0;
    text_print(&reply, "{\"jsonrpc\":\"2.0\",\"result\":");
    if (memmem(frame->payload, frame->bytes, "server.connection.identify", 26))
        text_add(&reply, "1", 1); /* small from every server, whatever the answer that is measured */
    else
        text_add(&reply, canned.data, canned.bytes);
    text_print(&reply, ",\"id\":%.*s}", (int)id_bytes, id);
    ws_add(out, WS_TEXT, reply.data, reply.bytes, 0);
}

static void peer_read(struct peer *peer)
{
    static char block[1 << 16];
    static struct text out;
    ssize_t bytes = recv(peer->fd, block, sizeof block - 1, MSG_DONTWAIT);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (bytes <= 0) {
        peer_drop(peer);
        return;
    }
    char *data = block;
    size_t left = (size_t)bytes, taken;
    if (peer->rest.bytes) {
        text_add(&peer->rest, block, left);
        data = peer->rest.data;
        left = peer->rest.bytes;
    }
    size_t all = left;
    out.bytes = 0;
    for (;; data += taken, left -= taken) {
        struct ws_frame frame;
        if (!peer->is_websocket) {
            taken = http_head(data, left);
            if (!taken)
                break;
            answer_http(peer, data, taken, &out);
            continue;
        }
        taken = ws_parse(data, left, &frame);
        if (!taken)
            break;
        if (frame.opcode == WS_CLOSE) {
            peer_drop(peer);
            return;
        }
        if (frame.opcode == WS_TEXT)
            answer_request(peer, &frame, &out);
    }
    if (peer->rest.bytes)
        text_drop(&peer->rest, all - left);
    else if (left)
        text_add(&peer->rest, data, left);
    if (out.bytes) /* everything that one read brought is answered by one send */
        send_all(peer->fd, out.data, out.bytes);
}

/* {"method":"status","params":{"eventtime":T,"status":{...}}} -> the notification, to everyone. */
static void broadcast(const char *update)
{
    static struct text message, frame;
    const char *params = json_member(update, "params");
    const char *time = json_member(params, "eventtime"), *status = json_member(params, "status");
    message.bytes = frame.bytes = 0;
    text_print(&message, "{\"jsonrpc\":\"2.0\",\"method\":\"notify_status_update\",\"params\":[");
    text_add(&message, status, (size_t)(json_skip(status) - status));
    text_print(&message, ",%.*s]}", (int)(json_skip(time) - time), time);
    ws_add(&frame, WS_TEXT, message.data, message.bytes, 0);
    for (int i = 0; i < subscriber_count; i++) /* a frame that does not fit is lost, which the swarm counts as a gap */
        send(subscribers[i]->fd, frame.data, frame.bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void klippy_message(const char *message, size_t bytes)
{
    static struct text reply, frame;
    if (strncmp(message, "{\"id\":", 6)) {
        broadcast(message);
    } else if (last_caller) {
        reply.bytes = frame.bytes = 0;
        text_print(&reply, "{\"jsonrpc\":\"2.0\",");
        text_add(&reply, message + 1, bytes - 1);
        ws_add(&frame, WS_TEXT, reply.data, reply.bytes, 0);
        send_all(last_caller->fd, frame.data, frame.bytes);
    }
}

static void klippy_read(void)
{
    char block[1 << 16], *end;
    ssize_t bytes = recv(klippy.fd, block, sizeof block, MSG_DONTWAIT);
    if (bytes == 0)
        exit(0);
    if (bytes < 0)
        return;
    text_add(&klippy.rest, block, (size_t)bytes);
    while ((end = memchr(klippy.rest.data, 0x03, klippy.rest.bytes))) {
        *end = 0;
        klippy_message(klippy.rest.data, (size_t)(end - klippy.rest.data));
        text_drop(&klippy.rest, (size_t)(end - klippy.rest.data) + 1);
    }
}

static void klippy_start(const char *path, int is_fanout)
{
    klippy.fd = unix_connect(path);
    watch(&klippy);
    if (!is_fanout)
        return;
    /* The update is the union of what the swarm's filters ask for. */
    static const char request[] =
        "{\"id\":0,\"method\":\"objects/subscribe\",\"params\":{\"objects\":{\"toolhead\":null,\"gcode_move\":null,"
        "\"motion_report\":null,\"extruder\":null,\"heater_bed\":null,\"temperature_sensor chamber\":null,\"fan\":null,"
        "\"print_stats\":null,\"virtual_sdcard\":null,\"system_stats\":null,\"mcu\":null},"
        "\"response_template\":{\"method\":\"status\"}}}\x03";
    send_all(klippy.fd, request, sizeof request - 1);
}

int main(int argc, char **argv)
{
    int port = 0, reply_bytes = 2;
    unsigned limit = 3600;
    const char *path = NULL, *mode = "echo";
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--klippy"))
            path = value;
        else if (!strcmp(name, "--mode"))
            mode = value;
        else if (!strcmp(name, "--reply-bytes"))
            reply_bytes = atoi(value);
        else if (!strcmp(name, "--seconds"))
            limit = (unsigned)atoi(value);
        else
            die("unknown option %s", name);
    }
    end_after(limit);
    raise_descriptor_limit();
    text_add(&canned, "\"", 1);
    for (int i = 2; i < reply_bytes; i++)
        text_add(&canned, "x", 1);
    text_add(&canned, "\"", 1);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    is_relay = !strcmp(mode, "relay");
    if (path)
        klippy_start(path, !strcmp(mode, "fanout"));
    struct peer listener = {.fd = tcp_listen(port)};
    watch(&listener);
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer == &listener) {
                accept_peer(listener.fd);
            } else if (peer == &klippy) {
                klippy_read();
            } else {
                peer_read(peer);
            }
        }
    }
}
