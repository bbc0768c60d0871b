/* What does a status frame cost, how late is it, and does every client get every update once and in order?
 *
 * N WebSocket clients in one process on epoll. Each upgrades, identifies, subscribes and then reads what comes, which
 * costs about a tenth of what a server pays for the same frame. Client i uses filter i modulo K of printer.h.
 * The process is driven over stdin, one word a line, and answers on stdout, one JSON object a line:
 *
 *   (start)      {"event":"ready",...} when all clients have their first reply
 *   start        begin to count
 *   stop         {"event":"window",...} what was counted since
 *   release      close the connections of the stalled clients
 *   end of file  close all connections and end
 *
 *   swarm --port P --clients N [--filters K] [--stall M] [--objects JSON] [--order counter|eventtime] [--seconds LIMIT]
 *
 * --filters -1 subscribes to every object of the printer, --objects to the given ones. Order is proven by the pusher's
 * update counter, or, with another Klippy, by comparing all clients' sequences of event times.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "printer.h"

/* A client's way: each state waits for one answer, which sends the next request.
 *
 *   UPGRADING --101--> IDENTIFYING --reply--> SUBSCRIBING --reply--> LIVE, or STALLED: never read again
 *   any --end of file, close frame--> CLOSED
 *
 * CONNECT_AT_ONCE of them are on this way at a time, so that no accept queue overflows. */
enum state { UPGRADING, IDENTIFYING, SUBSCRIBING, LIVE, STALLED, CLOSED };
enum { CONNECT_AT_ONCE = 32, STALLED_RECEIVE_BUFFER = 4096 };

struct client {
    int fd, will_stall, filter;
    enum state state;
    struct text rest;  /* an unfinished frame */
    double last;       /* order key of the last status frame: counter or event time */
    size_t place;      /* of that event time in `sequence` */
    uint64_t frames;   /* status frames in this window */
};

static struct client *clients;
static int client_count, live_count, started_count, filter_count = 1, port, by_eventtime, epoll_fd;
static const char *objects_given;

static struct {
    uint64_t frames, bytes, others, gaps, repeats, closed;
    struct histogram latency;
} window;

/* All event times in the order in which the first client saw each. */
static double *sequence;
static size_t sequence_length, sequence_room;

static void client_say(struct client *c, int opcode, const char *payload, size_t bytes)
{
    static struct text out;
    out.bytes = 0;
    ws_add(&out, opcode, payload, bytes, 1);
    /* Requests are small and the socket's buffer is empty: a short write means the peer is gone, which reading shows. */
    if (send(c->fd, out.data, out.bytes, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
        die("send: %s", strerror(errno));
}

static void client_open(struct client *c)
{
    struct text request = {0};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->fd = tcp_connect(port, c->will_stall ? STALLED_RECEIVE_BUFFER : 0);
    ws_upgrade_request(&request, port);
    send_all(c->fd, request.data, request.bytes);
    free(request.data);
    make_nonblocking(c->fd);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    c->state = UPGRADING;
}

static void client_close(struct client *c)
{
    if (c->state < LIVE)
        die("the server closed a connection before its subscription was answered");
    close(c->fd);
    c->state = CLOSED;
    window.closed++;
}

static void client_identify(struct client *c)
{
    static const char request[] = "{\"jsonrpc\":\"2.0\",\"method\":\"server.connection.identify\",\"params\":{\"client_name\":"
                                  "\"swarm\",\"version\":\"1\",\"type\":\"other\",\"url\":\"http://127.0.0.1\"},\"id\":1}";
    client_say(c, WS_TEXT, request, sizeof request - 1);
    c->state = IDENTIFYING;
}

static void client_subscribe(struct client *c)
{
    struct text request = {0};
    text_print(&request, "{\"jsonrpc\":\"2.0\",\"method\":\"printer.objects.subscribe\",\"params\":{\"objects\":");
    if (objects_given)
        text_add(&request, objects_given, strlen(objects_given));
    else
        printer_filter(&request, c->filter);
    text_print(&request, "},\"id\":2}");
    client_say(c, WS_TEXT, request.data, request.bytes);
    free(request.data);
    c->state = SUBSCRIBING;
}

static void report_ready(void)
{
    printf("{\"event\":\"ready\",\"clients\":%d}\n", client_count);
    fflush(stdout);
}

static void client_is_live(struct client *c)
{
    c->state = c->will_stall ? STALLED : LIVE;
    if (c->will_stall)
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    if (++live_count == client_count)
        report_ready();
    if (started_count < client_count)
        client_open(&clients[started_count++]);
}

/* [{status},eventtime]} ends the message, so the number begins behind the last comma. */
static double eventtime_of(const struct ws_frame *frame)
{
    const char *comma = memrchr(frame->payload, ',', frame->bytes);
    double value = comma ? strtod(comma + 1, NULL) : 0;
    if (value <= 0)
        die("no event time in %.*s", (int)frame->bytes, frame->payload);
    return value;
}

static double counter_of(const char *payload, size_t bytes)
{
    static const char key[] = "\"cputime\":";
    const char *at = memmem(payload, bytes, key, sizeof key - 1);
    return at ? strtod(at + sizeof key - 1, NULL) : -1;
}

static void check_counter(struct client *c, double counter)
{
    if (c->last >= 0 && counter <= c->last)
        window.repeats++;
    else if (c->last >= 0 && counter > c->last + 1)
        window.gaps += (uint64_t)(counter - c->last) - 1;
    c->last = counter;
}

static void check_eventtime(struct client *c, double time)
{
    if (c->last < 0) { /* the first one: find its place */
        c->place = sequence_length;
        while (c->place > 0 && sequence[c->place - 1] >= time)
            c->place--;
    } else {
        if (time <= c->last) {
            window.repeats++;
            return;
        }
        for (c->place++; c->place < sequence_length && sequence[c->place] < time; c->place++)
            window.gaps++;
    }
    c->last = time;
    if (c->place < sequence_length) {
        if (sequence[c->place] != time)
            die("two clients saw different event times: %.9f and %.9f", sequence[c->place], time);
        return;
    }
    if (sequence_length == sequence_room) {
        sequence_room = sequence_room ? sequence_room * 2 : 4096;
        sequence = realloc(sequence, sequence_room * sizeof *sequence);
    }
    sequence[sequence_length++] = time;
}

static void client_status(struct client *c, const struct ws_frame *frame, uint64_t now)
{
    double time = eventtime_of(frame);
    if (by_eventtime) {
        check_eventtime(c, time);
    } else {
        double counter = counter_of(frame->payload, frame->bytes);
        if (counter < 0)
            die("no update counter in %.*s", (int)frame->bytes, frame->payload);
        check_counter(c, counter);
    }
    uint64_t pushed = (uint64_t)(time * 1e9);
    c->frames++;
    window.frames++;
    window.bytes += frame->bytes;
    histogram_add(&window.latency, now > pushed ? now - pushed : 0);
}

static void client_message(struct client *c, const struct ws_frame *frame, uint64_t now)
{
    size_t start = frame->bytes < 96 ? frame->bytes : 96;
    if (frame->opcode == WS_PING) {
        client_say(c, WS_PONG, frame->payload, frame->bytes);
    } else if (frame->opcode == WS_CLOSE) {
        client_close(c);
    } else if (memmem(frame->payload, start, "\"notify_", 8)) {
        if (c->state == LIVE && memmem(frame->payload, start, "\"notify_status_update\"", 22)) {
            client_status(c, frame, now);
        } else {
            window.others++;
            window.bytes += frame->bytes;
        }
    } else {
        if (memmem(frame->payload, start, "\"error\"", 7))
            die("refused: %.*s", (int)frame->bytes, frame->payload);
        if (c->state == IDENTIFYING) {
            client_subscribe(c);
        } else if (c->state == SUBSCRIBING) {
            c->last = by_eventtime ? -1 : counter_of(frame->payload, frame->bytes);
            client_is_live(c);
        }
    }
}

/* Take whole messages off the front: bytes taken. */
static size_t client_take(struct client *c, char *data, size_t bytes, uint64_t now)
{
    size_t taken = 0;
    if (c->state == UPGRADING) {
        taken = http_head(data, bytes);
        if (!taken)
            return 0;
        if (strncmp(data, "HTTP/1.1 101", 12))
            die("upgrade refused: %.*s", (int)taken, data);
        client_identify(c);
    }
    struct ws_frame frame;
    for (size_t n; c->state < STALLED && (n = ws_parse(data + taken, bytes - taken, &frame)); taken += n)
        client_message(c, &frame, now);
    return taken;
}

static void client_read(struct client *c)
{
    static char block[1 << 18];
    ssize_t bytes = recv(c->fd, block, sizeof block, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (bytes <= 0) {
        client_close(c);
        return;
    }
    uint64_t now = now_ns();
    if (c->rest.bytes) {
        text_add(&c->rest, block, (size_t)bytes);
        text_drop(&c->rest, client_take(c, c->rest.data, c->rest.bytes, now));
    } else {
        size_t taken = client_take(c, block, (size_t)bytes, now);
        if (taken < (size_t)bytes)
            text_add(&c->rest, block + taken, (size_t)bytes - taken);
    }
}

static void window_start(void)
{
    memset(&window, 0, sizeof window);
    for (int i = 0; i < client_count; i++)
        clients[i].frames = 0;
}

static void window_stop(void)
{
    uint64_t fewest = UINT64_MAX, most = 0;
    for (int i = 0; i < client_count; i++) {
        if (clients[i].will_stall)
            continue;
        fewest = clients[i].frames < fewest ? clients[i].frames : fewest;
        most = clients[i].frames > most ? clients[i].frames : most;
    }
    printf("{\"event\":\"window\",\"frames\":%lu,\"other_frames\":%lu,\"bytes\":%lu,\"gaps\":%lu,\"repeats\":%lu,"
           "\"closed\":%lu,\"fewest_per_client\":%lu,\"most_per_client\":%lu,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"largest_us\":%.1f}\n",
           (unsigned long)window.frames, (unsigned long)window.others, (unsigned long)window.bytes,
           (unsigned long)window.gaps, (unsigned long)window.repeats, (unsigned long)window.closed,
           (unsigned long)fewest, (unsigned long)most, histogram_us(&window.latency, 0.5),
           histogram_us(&window.latency, 0.99), histogram_us(&window.latency, 0.999),
           (double)window.latency.largest / 1000);
    fflush(stdout);
}

static void release_stalled(void)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i].state == STALLED) {
            close(clients[i].fd);
            clients[i].state = CLOSED;
        }
}

static void read_commands(void)
{
    static struct text in;
    char block[256];
    ssize_t bytes = read(0, block, sizeof block);
    if (bytes <= 0)
        exit(0); /* the kernel closes the sockets */
    text_add(&in, block, (size_t)bytes);
    for (char *end; (end = memchr(in.data, '\n', in.bytes)); text_drop(&in, (size_t)(end - in.data) + 1)) {
        *end = 0;
        if (!strcmp(in.data, "start"))
            window_start();
        else if (!strcmp(in.data, "stop"))
            window_stop();
        else if (!strcmp(in.data, "release"))
            release_stalled();
        else
            die("unknown command: %s", in.data);
    }
}

int main(int argc, char **argv)
{
    int normal = 1, stalled = 0;
    unsigned limit = 3600;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--clients"))
            normal = atoi(value);
        else if (!strcmp(name, "--filters"))
            filter_count = atoi(value);
        else if (!strcmp(name, "--stall"))
            stalled = atoi(value);
        else if (!strcmp(name, "--objects"))
            objects_given = value;
        else if (!strcmp(name, "--order"))
            by_eventtime = !strcmp(value, "eventtime");
        else if (!strcmp(name, "--seconds"))
            limit = (unsigned)atoi(value);
        else
            die("unknown option %s", name);
    }
    if (!port || normal < 0 || normal + stalled < 1 || filter_count > MAX_FILTERS)
        die("see the head of swarm.c for how to use it");
    end_after(limit);
    raise_descriptor_limit();
    printer_build("/tmp", 0);
    client_count = normal + stalled;
    clients = calloc((size_t)client_count, sizeof *clients);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    for (int i = 0; i < client_count; i++) {
        clients[i].will_stall = i >= normal;
        clients[i].filter = filter_count < 0 ? -1 : i % (filter_count ? filter_count : 1);
        clients[i].last = -1;
    }
    while (started_count < client_count && started_count < CONNECT_AT_ONCE)
        client_open(&clients[started_count++]);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            struct client *c = events[i].data.ptr;
            if (!c)
                read_commands();
            else if (c->state < STALLED)
                client_read(c);
        }
    }
}
