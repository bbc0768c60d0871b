/* Can a server keep up with Klippy? A Klippy that costs next to nothing, at any rate.
 *
 * Speaks Klippy's API (Klipper docs/API_Server.md: JSON, then 0x03) on a Unix socket, well enough for Moonraker and
 * moonfast to become ready. Every 1/RATE s the printer moves and each subscriber is sent the moving fields that it
 * subscribed to, whether or not it has read the ones before. "rate R" on stdin changes the rate; the end of stdin ends
 * the process.
 *
 *   pusher --socket PATH --rate HZ [--gcode-rate HZ] [--sensors N] [--gcodes FOLDER]
 *          [--seconds LIMIT]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "printer.h"

enum { MAX_CLIENTS = 8, BACKLOG_LIMIT = 256 << 20 };

struct client {
    int fd;
    struct text in, out;
    char *objects;  /* the filter it subscribed with, JSON; NULL: not subscribed */
    char *template; /* of status updates, without its closing brace */
    char *gcode_template;
};
static struct client clients[MAX_CLIENTS];
static int client_count;
static uint64_t counter, requests, largest_backlog;
static const char *gcodes_folder = "/tmp";

static double clock_s(void)
{
    return (double)now_ns() / 1e9;
}

static void client_drop(struct client *c)
{
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c->objects);
    free(c->template);
    free(c->gcode_template);
    *c = clients[--client_count];
}

static void client_flush(struct client *c)
{
    while (c->out.bytes) {
        ssize_t sent = send(c->fd, c->out.data, c->out.bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
            break; /* full, or gone: poll() tells which */
        text_drop(&c->out, (size_t)sent);
    }
    if (c->out.bytes > largest_backlog)
        largest_backlog = c->out.bytes;
    if (c->out.bytes > BACKLOG_LIMIT)
        die("the server has left %d MB unread", BACKLOG_LIMIT >> 20);
}

/* The objects and fields that a filter asks for; only_moving: what an update brings, else what a reply does. */
static void add_status(struct text *out, const char *filter, int only_moving)
{
    struct json_item wanted, name;
    int objects = 0;
    text_add(out, "{", 1);
    while (json_next(&filter, &wanted)) {
        const struct object *o = printer_objects;
        while (o->name && (strlen(o->name) != (size_t)wanted.key_bytes || memcmp(o->name, wanted.key, strlen(o->name))))
            o++;
        if (only_moving && (!o->name || !printer_is_moving(o)))
            continue;
        int fields = 0;
        size_t before = out->bytes;
        text_print(out, "%s\"%.*s\":{", objects ? "," : "", wanted.key_bytes, wanted.key);
        for (const struct field *f = o->fields; o->name && f->name; f++) {
            int is_wanted = *wanted.value == 'n'; /* null: all fields */
            for (const char *p = wanted.value; !is_wanted && *wanted.value == '[' && json_next(&p, &name);)
                is_wanted = strlen(f->name) == (size_t)name.value_bytes - 2 &&
                            !memcmp(f->name, name.value + 1, strlen(f->name));
            if (!is_wanted || (only_moving && f->fixed))
                continue;
            if (fields++)
                text_add(out, ",", 1);
            printer_field(out, f);
        }
        if (only_moving && !fields) {
            out->bytes = before;
            continue;
        }
        text_add(out, "}", 1);
        objects++;
    }
    text_add(out, "}", 1);
}

static char *copy_value(const char *value, int less)
{
    return value ? strndup(value, (size_t)(json_skip(value) - value - less)) : NULL;
}

static void add_result(struct text *out, const char *method, int method_bytes, const char *params, struct client *c)
{
    const char *objects = json_member(params, "objects"), *template = json_member(params, "response_template");
    int is_query = !strncmp(method, "objects/query", (size_t)method_bytes);
    int is_subscribe = !strncmp(method, "objects/subscribe", (size_t)method_bytes);
    if (is_subscribe) {
        free(c->objects);
        free(c->template);
        c->objects = copy_value(objects, 0);
        c->template = template ? copy_value(template, 1) : strdup("{\"method\":\"status\"");
    }
    if ((is_query || is_subscribe) && objects) {
        text_print(out, "{\"eventtime\":%.9f,\"status\":", clock_s());
        add_status(out, objects, 0);
        text_add(out, "}", 1);
    } else if (!strncmp(method, "info", (size_t)method_bytes)) {
        text_print(out,
                   "{\"state\":\"ready\",\"state_message\":\"Printer is ready\",\"hostname\":\"benchmark\","
                   "\"klipper_path\":\"/tmp/klipper\",\"python_path\":\"/usr/bin/python3\",\"process_id\":%d,\"user_id\":%d,"
                   "\"group_id\":%d,\"log_file\":\"/tmp/klippy.log\",\"config_file\":\"/tmp/printer.cfg\","
                   "\"software_version\":\"v0.13.0-730-g84104bbb\",\"cpu_info\":\"2 core\"}",
                   getpid(), getuid(), getgid());
    } else if (!strncmp(method, "list_endpoints", (size_t)method_bytes)) {
        text_print(out, "{\"endpoints\":[\"list_endpoints\",\"info\",\"emergency_stop\",\"register_remote_method\","
                        "\"gcode/help\",\"gcode/script\",\"gcode/restart\",\"gcode/firmware_restart\","
                        "\"gcode/subscribe_output\",\"objects/list\",\"objects/query\",\"objects/subscribe\","
                        "\"pause_resume/cancel\",\"pause_resume/pause\",\"pause_resume/resume\","
                        "\"query_endstops/status\"]}");
    } else if (!strncmp(method, "objects/list", (size_t)method_bytes)) {
        text_print(out, "{\"objects\":[");
        for (const struct object *o = printer_objects; o->name; o++)
            text_print(out, "%s\"%s\"", o == printer_objects ? "" : ",", o->name);
        text_print(out, "]}");
    } else {
        if (!strncmp(method, "gcode/subscribe_output", (size_t)method_bytes)) {
            free(c->gcode_template);
            c->gcode_template = copy_value(template, 1);
        }
        text_print(out, "{}");
    }
}

static void client_request(struct client *c, const char *request)
{
    const char *id = json_member(request, "id"), *method = json_member(request, "method");
    if (!id || !method || *method != '"')
        return; /* Klippy ignores such messages too */
    requests++;
    text_print(&c->out, "{\"id\":%.*s,\"result\":", (int)(json_skip(id) - id), id);
    add_result(&c->out, method + 1, (int)(json_skip(method) - method) - 2, json_member(request, "params"), c);
    text_add(&c->out, "}\x03", 2);
    client_flush(c);
}

static int client_read(struct client *c)
{
    char block[65536];
    ssize_t bytes = recv(c->fd, block, sizeof block, MSG_DONTWAIT);
    if (bytes <= 0)
        return bytes < 0 && (errno == EAGAIN || errno == EINTR);
    text_add(&c->in, block, (size_t)bytes);
    char *end;
    while ((end = memchr(c->in.data, 0x03, c->in.bytes))) {
        *end = 0;
        client_request(c, c->in.data);
        text_drop(&c->in, (size_t)(end - c->in.data) + 1);
    }
    return 1;
}

static void push_status(void)
{
    printer_move(++counter);
    for (struct client *c = clients; c < clients + client_count; c++) {
        if (!c->objects)
            continue;
        text_print(&c->out, "%s%s\"params\":{\"eventtime\":%.9f,\"status\":", c->template,
                   strlen(c->template) > 1 ? "," : "", clock_s());
        add_status(&c->out, c->objects, 1);
        text_add(&c->out, "}}\x03", 3);
        client_flush(c);
    }
}

static void push_gcode(void)
{
    for (struct client *c = clients; c < clients + client_count; c++) {
        if (!c->gcode_template)
            continue;
        text_print(&c->out, "%s%s\"params\":{\"response\":\"B:99.9 /100.0 T0:244.8 /245.0 C:48.1 /0.0 update %lu\"}}\x03",
                   c->gcode_template, strlen(c->gcode_template) > 1 ? "," : "", (unsigned long)counter);
        client_flush(c);
    }
}

/* A clock that neither drifts nor skips: after a delay the missed moments are made up for. */
struct beat {
    double rate;
    uint64_t next_ns;
};

static void beat_set(struct beat *beat, double rate)
{
    beat->rate = rate;
    beat->next_ns = rate > 0 ? now_ns() + (uint64_t)(1e9 / rate) : UINT64_MAX;
}

static int beat_is_due(struct beat *beat, uint64_t now)
{
    if (now < beat->next_ns)
        return 0;
    beat->next_ns += (uint64_t)(1e9 / beat->rate);
    return 1;
}

static void read_command(struct beat *status)
{
    char line[256];
    ssize_t bytes = read(0, line, sizeof line - 1);
    if (bytes <= 0) {
        printf("{\"updates\":%lu,\"requests\":%lu,\"largest_backlog_bytes\":%lu}\n", (unsigned long)counter,
               (unsigned long)requests, (unsigned long)largest_backlog);
        exit(0);
    }
    line[bytes] = 0;
    double rate;
    if (sscanf(line, "rate %lf", &rate) == 1)
        beat_set(status, rate);
}

int main(int argc, char **argv)
{
    const char *path = NULL;
    double rate = 4, gcode_rate = 0;
    unsigned limit = 3600;
    int sensors = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--socket"))
            path = value;
        else if (!strcmp(name, "--rate"))
            rate = atof(value);
        else if (!strcmp(name, "--gcode-rate"))
            gcode_rate = atof(value);
        else if (!strcmp(name, "--sensors"))
            sensors = atoi(value);
        else if (!strcmp(name, "--gcodes"))
            gcodes_folder = value;
        else if (!strcmp(name, "--seconds"))
            limit = (unsigned)atoi(value);
        else
            die("unknown option %s", name);
    }
    if (!path)
        die("see the head of pusher.c for how to use it");
    end_after(limit);
    printer_build(gcodes_folder, sensors);
    int listener = unix_listen(path);
    printf("{\"event\":\"listening\"}\n");
    fflush(stdout);

    struct beat status, gcode;
    beat_set(&status, rate);
    beat_set(&gcode, gcode_rate);
    for (;;) {
        struct pollfd polled[MAX_CLIENTS + 2] = {{0, POLLIN, 0}, {listener, POLLIN, 0}};
        for (int i = 0; i < client_count; i++)
            polled[i + 2] = (struct pollfd){clients[i].fd, (short)(POLLIN | (clients[i].out.bytes ? POLLOUT : 0)), 0};
        uint64_t now = now_ns(), next = status.next_ns < gcode.next_ns ? status.next_ns : gcode.next_ns;
        uint64_t wait = next == UINT64_MAX ? 1000000000u : next > now ? next - now : 0;
        struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        int polled_clients = client_count;
        ppoll(polled, (nfds_t)polled_clients + 2, &timeout, NULL);

        if (polled[0].revents)
            read_command(&status);
        for (int i = polled_clients - 1; i >= 0; i--) { /* backwards: a dropped client is replaced by the last one */
            if (polled[i + 2].revents & POLLOUT)
                client_flush(&clients[i]);
            if (polled[i + 2].revents & (POLLIN | POLLHUP | POLLERR) && !client_read(&clients[i]))
                client_drop(&clients[i]);
        }
        if (polled[1].revents && client_count < MAX_CLIENTS)
            clients[client_count++] = (struct client){.fd = accept(listener, NULL, NULL)};
        for (now = now_ns(); beat_is_due(&status, now);)
            push_status();
        while (beat_is_due(&gcode, now))
            push_gcode();
    }
}
