/* What does one request cost, and how long does its answer take?
 *
 * Sends DEPTH requests in one write, RATE times a second, on one connection kept open (or, for joins, on a new one each
 * time), and reads the answers. A burst that falls due while answers are outstanding is sent as soon as they are in, and
 * its time counts from when it was due, so that a slow server cannot hide its waiting time. Prints {"event":"ready"},
 * waits for a line on stdin, runs, prints one JSON object. With --bursts 0 it runs until another line comes.
 *
 *   caller --port P --kind rpc --method NAME [--params JSON] [--rate R] [--depth D] [--bursts N] [--seconds LIMIT]
 *   caller --port P --kind http --path PATH ...
 *   caller --port P --kind join ...    connect, upgrade, identify, subscribe to every object, first status, close
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "printer.h"

static int fd = -1, port;
static struct text in;    /* what has been read */
static size_t in_taken;   /* and of it, what has been dealt with */
static uint64_t answers, answer_bytes, errors, smallest = UINT64_MAX, largest;

static void fill(void)
{
    char block[1 << 16];
    if (in_taken == in.bytes)
        in_taken = in.bytes = 0;
    ssize_t bytes = recv(fd, block, sizeof block, 0);
    if (bytes <= 0)
        die("the server closed the connection: %s", bytes ? strerror(errno) : "end of stream");
    text_add(&in, block, (size_t)bytes);
}

/* The next reply, notifications skipped and pings answered. */
static struct ws_frame read_reply(void)
{
    struct ws_frame frame;
    for (;;) {
        size_t taken = ws_parse(in.data + in_taken, in.bytes - in_taken, &frame);
        in_taken += taken;
        if (!taken) {
            fill();
        } else if (frame.opcode == WS_PING) {
            struct text pong = {0};
            ws_add(&pong, WS_PONG, frame.payload, frame.bytes, 1);
            send_all(fd, pong.data, pong.bytes);
            free(pong.data);
        } else if (frame.opcode == WS_CLOSE) {
            die("the server sent a close frame");
        } else if (!memmem(frame.payload, frame.bytes < 96 ? frame.bytes : 96, "\"notify_", 8)) {
            return frame;
        }
    }
}

static size_t read_head(void)
{
    size_t bytes;
    while (!(bytes = http_head(in.data + in_taken, in.bytes - in_taken)))
        fill();
    return bytes;
}

static void count_answer(const char *body, size_t bytes, int is_error)
{
    if (is_error && !errors++)
        fprintf(stderr, "refused: %.*s\n", (int)bytes, body);
    answers++;
    answer_bytes += bytes;
    smallest = bytes < smallest ? bytes : smallest;
    largest = bytes > largest ? bytes : largest;
}

static void read_rpc_answer(void)
{
    struct ws_frame frame = read_reply();
    count_answer(frame.payload, frame.bytes, memmem(frame.payload, frame.bytes < 96 ? frame.bytes : 96, "\"error\"", 7) != NULL);
}

static void read_http_answer(void)
{
    size_t head = read_head();
    const char *start = in.data + in_taken, *length = strcasestr(start, "\r\ncontent-length:");
    int is_ok = !strncmp(start, "HTTP/1.1 200", 12);
    if (!length || length > start + head)
        die("no Content-Length in %.*s", (int)head, start);
    size_t body = (size_t)strtoul(length + 17, NULL, 10);
    in_taken += head;
    while (in.bytes - in_taken < body)
        fill();
    count_answer(in.data + in_taken, body, !is_ok);
    in_taken += body;
}

static void call(const char *text)
{
    struct text out = {0};
    ws_add(&out, WS_TEXT, text, strlen(text), 1);
    send_all(fd, out.data, out.bytes);
    free(out.data);
}

static void open_websocket(void)
{
    struct text out = {0};
    in.bytes = in_taken = 0;
    fd = tcp_connect(port, 0);
    ws_upgrade_request(&out, port);
    send_all(fd, out.data, out.bytes);
    free(out.data);
    size_t head = read_head();
    if (strncmp(in.data + in_taken, "HTTP/1.1 101", 12))
        die("upgrade refused: %.*s", (int)head, in.data + in_taken);
    in_taken += head;
}

static void identify(void)
{
    call("{\"jsonrpc\":\"2.0\",\"method\":\"server.connection.identify\",\"params\":{\"client_name\":\"caller\","
         "\"version\":\"1\",\"type\":\"other\",\"url\":\"http://127.0.0.1\"},\"id\":1}");
    read_reply();
}

static void join(const char *subscribe)
{
    struct text close_frame = {0};
    open_websocket();
    identify();
    call(subscribe);
    read_rpc_answer();
    ws_add(&close_frame, WS_CLOSE, "\x03\xe8", 2, 1);
    send_all(fd, close_frame.data, close_frame.bytes);
    free(close_frame.data);
    close(fd);
}

static void sleep_until(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static int is_told_to_stop(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static int compare_times(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    const char *kind = "rpc", *method = "server.info", *params = NULL, *path = "/server/info";
    double rate = 100;
    long depth = 1, bursts = 100;
    unsigned limit = 3600;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--kind"))
            kind = value;
        else if (!strcmp(name, "--method"))
            method = value;
        else if (!strcmp(name, "--params"))
            params = value;
        else if (!strcmp(name, "--path"))
            path = value;
        else if (!strcmp(name, "--rate"))
            rate = atof(value);
        else if (!strcmp(name, "--depth"))
            depth = atol(value);
        else if (!strcmp(name, "--bursts"))
            bursts = atol(value);
        else if (!strcmp(name, "--seconds"))
            limit = (unsigned)atoi(value);
        else
            die("unknown option %s", name);
    }
    int is_http = !strcmp(kind, "http"), is_join = !strcmp(kind, "join");
    struct text burst = {0}, request = {0};
    end_after(limit);
    printer_build("/tmp", 0);
    if (is_join) {
        text_print(&request, "{\"jsonrpc\":\"2.0\",\"method\":\"printer.objects.subscribe\",\"params\":{\"objects\":");
        printer_filter(&request, -1);
        text_print(&request, "},\"id\":2}");
    } else if (is_http) {
        fd = tcp_connect(port, 0);
        for (long i = 0; i < depth; i++)
            text_print(&burst, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n\r\n", path, port);
    } else {
        open_websocket();
        identify();
        for (long i = 0; i < depth; i++) {
            request.bytes = 0;
            text_print(&request, "{\"jsonrpc\":\"2.0\",\"method\":\"%s\"%s%s,\"id\":%ld}", method,
                       params ? ",\"params\":" : "", params ? params : "", 100 + i);
            ws_add(&burst, WS_TEXT, request.data, request.bytes, 1);
        }
    }
    printf("{\"event\":\"ready\"}\n");
    fflush(stdout);
    char go[64];
    if (read(0, go, sizeof go) < 1)
        return 0;

    static struct histogram latency;
    uint64_t *slowest = calloc((bursts ? (size_t)((double)bursts / rate) : limit) + 2, sizeof *slowest); /* of each second */
    uint64_t start = now_ns(), late = 0;
    long i = 0;
    for (; bursts ? i < bursts : !is_told_to_stop(); i++) {
        uint64_t due = start + (uint64_t)((double)i * 1e9 / rate);
        if (now_ns() < due)
            sleep_until(due);
        else
            late += i > 0;
        /* The tool's own late waking is not the server's time. */
        uint64_t begun = now_ns() > due + 1000000 ? due : now_ns(), took = 0;
        if (is_join)
            join(request.data);
        else
            send_all(fd, burst.data, burst.bytes);
        for (long k = 0; k < depth; k++) {
            if (is_http)
                read_http_answer();
            else if (!is_join)
                read_rpc_answer();
            took = now_ns() - begun;
            histogram_add(&latency, took);
        }
        uint64_t *second = slowest + (size_t)((double)i / rate);
        *second = took > *second ? took : *second;
    }
    uint64_t wall = now_ns() - start;
    size_t seconds = (size_t)((double)i / rate);
    qsort(slowest, seconds, sizeof *slowest, compare_times);
    printf("{\"event\":\"done\",\"requests\":%lu,\"errors\":%lu,\"late_bursts\":%lu,\"wall_s\":%.3f,\"reply_bytes\":%.0f,"
           "\"smallest_reply\":%lu,\"largest_reply\":%lu,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
           "\"largest_us\":%.1f,\"slowest_of_second_us\":%.1f}\n",
           (unsigned long)answers, (unsigned long)errors, (unsigned long)late, (double)wall / 1e9,
           (double)answer_bytes / (double)(answers ? answers : 1), (unsigned long)smallest, (unsigned long)largest,
           histogram_us(&latency, 0.5), histogram_us(&latency, 0.99), histogram_us(&latency, 0.999), (double)latency.largest / 1e3,
           seconds ? (double)slowest[seconds / 2] / 1e3 : 0.0);
    fflush(stdout);
    return 0;
}
