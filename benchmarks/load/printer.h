/* A printing printer as text: the status that the fake Klippy tells, and the filters with which the swarm asks for it.
 *
 * About forty objects, 42 kB of status in all; twelve of them move with every update, 1.2 kB. The field
 * system_stats.cputime counts the updates, so that a client can tell lost, repeated and reordered frames apart, and
 * eventtime is CLOCK_MONOTONIC at the moment of the push, so that it can tell how long the frame took. */
#ifndef PRINTER_H
#define PRINTER_H

#include "wire.h"

enum { MAX_FIELDS = 14, MAX_OBJECTS = 256 };
enum { DROPPABLE_FIELDS = 11, MAX_FILTERS = 1 << DROPPABLE_FIELDS };

struct field {
    const char *name;
    const char *format; /* a moving field: printf of `value` and the three behind it */
    int value;          /* index into the moving values */
    char *fixed;        /* a field that stays: its JSON text */
};
struct object {
    const char *name;
    struct field fields[MAX_FIELDS];
};

extern struct object printer_objects[MAX_OBJECTS]; /* ended by a NULL name */

/* sensors: how many more temperature sensors than a printer usually has */
void printer_build(const char *gcodes_folder, int sensors);
void printer_move(uint64_t counter); /* sets every moving value for that update */
void printer_field(struct text *out, const struct field *field);
int printer_is_moving(const struct object *object);
/* {"object":{fields},...}: all objects and fields, or only the moving ones */
void printer_status(struct text *out, int only_moving);
/* Filter number 0 to MAX_FILTERS - 1 as JSON {"object":null|[fields],...}. Every one contains the counter and some
 * moving field of each of the twelve objects; number 0 is all of them whole. -1: every object of the printer. */
void printer_filter(struct text *out, int number);

#endif
