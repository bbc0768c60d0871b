#include "printer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Moving values; a format may use up to four in a row. */
enum {
    X, Y, Z, E, LIVE_X, LIVE_Y, LIVE_Z, LIVE_E, SPEED, EXTRUDER_SPEED, PRINT_TIME, ESTIMATED_TIME, NOZZLE, NOZZLE_POWER,
    BED, BED_POWER, CHAMBER, HOST, FAN, RPM, TOTAL, PRINTING, FILAMENT, PROGRESS, POSITION, LOAD, COUNTER, MEMORY,
    MCU_AWAKE, MCU_TASK, MCU_DEVIATION, MCU_BYTES, MCU_FREQUENCY, SPARE_1, SPARE_2, SPARE_3, VALUES
};
static double values[VALUES];

#define PLACE "[%.3f,%.3f,%.3f,%.5f]"
#define LONG "%.15g"
struct object printer_objects[MAX_OBJECTS] = {
    {"webhooks", {{"state", 0, 0, "\"ready\""}, {"state_message", 0, 0, "\"Printer is ready\""}}},
    {"toolhead",
     {{"homed_axes", 0, 0, "\"xyz\""},
      {"axis_minimum", 0, 0, "[0.0,0.0,-2.0,0.0]"},
      {"axis_maximum", 0, 0, "[350.0,358.0,330.0,0.0]"},
      {"print_time", LONG, PRINT_TIME, 0},
      {"stalls", 0, 0, "0"},
      {"estimated_print_time", LONG, ESTIMATED_TIME, 0},
      {"extruder", 0, 0, "\"extruder\""},
      {"position", PLACE, X, 0},
      {"max_velocity", 0, 0, "500.0"},
      {"max_accel", 0, 0, "12000.0"},
      {"minimum_cruise_ratio", 0, 0, "0.5"},
      {"square_corner_velocity", 0, 0, "5.0"}}},
    {"gcode_move",
     {{"speed_factor", 0, 0, "1.0"},
      {"speed", "%.1f", SPEED, 0},
      {"extrude_factor", 0, 0, "0.96"},
      {"absolute_coordinates", 0, 0, "true"},
      {"absolute_extrude", 0, 0, "false"},
      {"homing_origin", 0, 0, "[0.0,0.0,-0.035,0.0]"},
      {"position", PLACE, X, 0},
      {"gcode_position", PLACE, X, 0}}},
    {"motion_report",
     {{"live_position", "[" LONG "," LONG "," LONG "," LONG "]", LIVE_X, 0},
      {"live_velocity", LONG, SPEED, 0},
      {"live_extruder_velocity", LONG, EXTRUDER_SPEED, 0},
      {"steppers", 0, 0, "[\"extruder\",\"stepper_x\",\"stepper_y\",\"stepper_z\"]"},
      {"trapq", 0, 0, "[\"extruder\",\"toolhead\"]"}}},
    {"extruder",
     {{"temperature", "%.2f", NOZZLE, 0},
      {"target", 0, 0, "245.0"},
      {"power", LONG, NOZZLE_POWER, 0},
      {"can_extrude", 0, 0, "true"},
      {"pressure_advance", 0, 0, "0.035"},
      {"smooth_time", 0, 0, "0.04"},
      {"motion_queue", 0, 0, "null"}}},
    {"heater_bed",
     {{"temperature", "%.2f", BED, 0}, {"target", 0, 0, "100.0"}, {"power", LONG, BED_POWER, 0}}},
    {"temperature_sensor chamber",
     {{"temperature", "%.2f", CHAMBER, 0},
      {"measured_min_temp", 0, 0, "21.05"},
      {"measured_max_temp", "%.2f", CHAMBER, 0}}},
    {"fan", {{"speed", LONG, FAN, 0}, {"rpm", LONG, RPM, 0}}},
    {"print_stats",
     {{"filename", 0, 0, "\"benchmark.gcode\""},
      {"total_duration", LONG, TOTAL, 0},
      {"print_duration", LONG, PRINTING, 0},
      {"filament_used", LONG, FILAMENT, 0},
      {"state", 0, 0, "\"printing\""},
      {"message", 0, 0, "\"\""},
      {"info", 0, 0, "{\"total_layer\":412,\"current_layer\":137}"}}},
    {"virtual_sdcard",
     {{"file_path", 0, 0, NULL}, /* set by printer_build() */
      {"progress", LONG, PROGRESS, 0},
      {"is_active", 0, 0, "true"},
      {"file_position", "%.0f", POSITION, 0},
      {"file_size", 0, 0, "28744301"}}},
    {"system_stats",
     {{"sysload", LONG, LOAD, 0}, {"cputime", "%.1f", COUNTER, 0}, {"memavail", "%.0f", MEMORY, 0}}},
    {"mcu",
     {{"mcu_version", 0, 0, "\"v0.13.0-730-g84104bbb\""},
      {"mcu_build_versions", 0, 0, "\"gcc: (15:12.2.rel1-1) 12.2.1 20221205 binutils: (2.40-2+18) 2.40\""},
      {"mcu_constants", 0, 0, "{\"ADC_MAX\":4095,\"BUS_PINS_spi1\":\"PA6,PA7,PA5\",\"CLOCK_FREQ\":64000000,\"MCU\":\"stm32g0b1xx\"}"},
      {"last_stats",
       "{\"mcu_awake\":%.3f,\"mcu_task_avg\":%.6f,\"mcu_task_stddev\":%.6f,\"bytes_write\":%.0f,\"bytes_invalid\":0,"
       "\"srtt\":0.001,\"rttvar\":0.0,\"rto\":0.025,\"ready_bytes\":12,\"upcoming_bytes\":21}",
       MCU_AWAKE, 0}}},
    {"pause_resume", {{"is_paused", 0, 0, "false"}}},
    {"display_status", {{"progress", 0, 0, "0.33"}, {"message", 0, 0, "null"}}},
    {"idle_timeout",
     {{"state", 0, 0, "\"Printing\""}, {"printing_time", 0, 0, "3211.4"}, {"idle_timeout", 0, 0, "1800.0"}}},
    {"exclude_object",
     {{"objects", 0, 0, "[]"}, {"excluded_objects", 0, 0, "[]"}, {"current_object", 0, 0, "null"}}},
    {"heaters",
     {{"available_heaters", 0, 0, "[\"heater_bed\",\"extruder\"]"},
      {"available_sensors", 0, 0, NULL}, /* set by printer_build() */
      {"available_monitors", 0, 0, "[]"}}},
    {"temperature_sensor host",
     {{"temperature", 0, 0, "47.8"}, {"measured_min_temp", 0, 0, "38.9"}, {"measured_max_temp", 0, 0, "52.1"}}},
    {"heater_fan hotend_fan", {{"speed", 0, 0, "1.0"}, {"rpm", 0, 0, "null"}}},
    {"controller_fan electronics", {{"speed", 0, 0, "0.6"}, {"rpm", 0, 0, "null"}}},
    {"filament_switch_sensor runout", {{"filament_detected", 0, 0, "true"}, {"enabled", 0, 0, "true"}}},
    {"output_pin caselight", {{"value", 0, 0, "0.4"}}},
    {"query_endstops", {{"last_query", 0, 0, "{\"stepper_x\":0,\"stepper_y\":0,\"stepper_z\":1}"}}},
    {"stepper_enable",
     {{"steppers", 0, 0, "{\"stepper_x\":true,\"stepper_y\":true,\"stepper_z\":true,\"extruder\":true}"}}},
    {"manual_probe",
     {{"is_active", 0, 0, "false"},
      {"z_position", 0, 0, "null"},
      {"z_position_lower", 0, 0, "null"},
      {"z_position_upper", 0, 0, "null"}}},
};

/* One bit of a filter's number each: left out when the bit is set. None is the only moving field of its object. */
static const struct {
    const char *object, *field;
} droppable[DROPPABLE_FIELDS] = {
    {"toolhead", "estimated_print_time"}, {"toolhead", "print_time"},     {"gcode_move", "speed"},
    {"motion_report", "live_velocity"},   {"extruder", "power"},          {"heater_bed", "power"},
    {"print_stats", "filament_used"},     {"print_stats", "total_duration"}, {"virtual_sdcard", "file_position"},
    {"system_stats", "sysload"},          {"fan", "rpm"},
};

static struct object *next_object(void)
{
    struct object *o = printer_objects;
    while (o->name)
        o++;
    if (o == printer_objects + MAX_OBJECTS - 1)
        die("too many printer objects");
    return o;
}

static char *finished(struct text *text)
{
    return text->data; /* built once, kept until the process ends */
}

static void add_mesh(void)
{
    struct text matrix = {0}, mesh = {0};
    for (int row = 0; row < 15; row++) {
        text_print(&matrix, "%s[", row ? "," : "[");
        for (int column = 0; column < 15; column++)
            text_print(&matrix, "%s%.6f", column ? "," : "", 0.12 * sin(row * 0.4) * cos(column * 0.3));
        text_add(&matrix, "]", 1);
    }
    text_add(&matrix, "]", 1);
    text_print(&mesh, "{\"default\":{\"points\":%s,\"mesh_params\":{\"min_x\":40.0,\"max_x\":310.0,\"x_count\":15}}}",
               matrix.data);
    *next_object() = (struct object){
        "bed_mesh",
        {{"profile_name", 0, 0, "\"default\""},
         {"mesh_min", 0, 0, "[40.0,40.0]"},
         {"mesh_max", 0, 0, "[310.0,310.0]"},
         {"probed_matrix", 0, 0, finished(&matrix)},
         {"mesh_matrix", 0, 0, finished(&matrix)},
         {"profiles", 0, 0, finished(&mesh)}}};
}

static void add_macros(struct text *config)
{
    enum { MACROS = 37 };
    static char names[MACROS][32];
    for (int i = 0; i < MACROS; i++) {
        snprintf(names[i], sizeof names[i], "gcode_macro MACRO_%d", i);
        *next_object() = (struct object){names[i], {{"runs", 0, 0, "0"}, {"last_temperature", 0, 0, "0.0"}}};
        text_print(config,
                   ",\"gcode_macro MACRO_%d\":{\"description\":\"Macro %d of the benchmark\",\"variable_runs\":\"0\","
                   "\"gcode\":\"\\n{%% set T = params.T|default(210)|float %%}\\nSAVE_GCODE_STATE NAME=m%d\\nM104 S{T}\\n"
                   "G91\\nG1 Z%d F600\\nG90\\nG1 X{printer.toolhead.axis_maximum.x / 2} Y20 F9000\\n"
                   "RESTORE_GCODE_STATE NAME=m%d\"}",
                   i, i, i, i, i);
    }
}

static void add_configfile(const char *gcodes_folder)
{
    struct text config = {0};
    text_print(&config, "{\"virtual_sdcard\":{\"path\":\"%s\"},\"pause_resume\":{},\"display_status\":{}", gcodes_folder);
    static const char *const steppers[] = {"stepper_x", "stepper_y", "stepper_z", "stepper_z1", "extruder"};
    for (int i = 0; i < 5; i++)
        text_print(&config,
                   ",\"%s\":{\"step_pin\":\"PF%d\",\"dir_pin\":\"!PG%d\",\"enable_pin\":\"!PF1%d\",\"rotation_distance\":40,"
                   "\"microsteps\":32,\"full_steps_per_rotation\":200,\"endstop_pin\":\"PG%d\",\"position_min\":0,"
                   "\"position_endstop\":350,\"position_max\":350,\"homing_speed\":25,\"homing_retract_dist\":5},"
                   "\"tmc2209 %s\":{\"uart_pin\":\"PC%d\",\"interpolate\":false,\"run_current\":0.8,"
                   "\"sense_resistor\":0.11,\"stealthchop_threshold\":0}",
                   steppers[i], i, i, i, i, steppers[i], i);
    add_macros(&config);
    text_add(&config, "}", 1);
    *next_object() = (struct object){
        "configfile",
        {{"config", 0, 0, finished(&config)},
         {"settings", 0, 0, finished(&config)},
         {"warnings", 0, 0, "[]"},
         {"save_config_pending", 0, 0, "false"},
         {"save_config_pending_items", 0, 0, "{}"}}};
}

static void add_commands(void)
{
    struct text commands = {0};
    for (int i = 0; i < 60; i++)
        text_print(&commands, "%s\"COMMAND_%d\":{\"help\":\"What the command number %d of the printer does\"}",
                   i ? "," : "{", i, i);
    text_add(&commands, "}", 1);
    *next_object() = (struct object){"gcode", {{"commands", 0, 0, finished(&commands)}}};
}

static void add_sensors(int count, struct text *names)
{
    for (int i = 0; i < count; i++) {
        struct text name = {0};
        text_print(&name, "temperature_sensor extra_%d", i);
        text_print(names, ",\"%s\"", name.data);
        *next_object() = (struct object){finished(&name), {{"temperature", "%.2f", CHAMBER, 0}}};
    }
}

static void set_fixed(const char *object, const char *field, char *value)
{
    for (struct object *o = printer_objects; o->name; o++)
        for (struct field *f = o->fields; f->name; f++)
            if (!strcmp(o->name, object) && !strcmp(f->name, field))
                f->fixed = value;
}

void printer_build(const char *gcodes_folder, int sensors)
{
    struct text path = {0}, names = {0};
    text_print(&path, "\"%s/benchmark.gcode\"", gcodes_folder);
    set_fixed("virtual_sdcard", "file_path", finished(&path));
    text_print(&names, "[\"heater_bed\",\"temperature_sensor chamber\",\"temperature_sensor host\",\"extruder\"");
    add_sensors(sensors, &names);
    text_add(&names, "]", 1);
    set_fixed("heaters", "available_sensors", finished(&names));
    add_mesh();
    add_configfile(gcodes_folder);
    add_commands();
    printer_move(0);
}

void printer_move(uint64_t counter)
{
    double n = (double)counter, t = n * 0.25, angle = n * 0.37, wave = sin(n * 0.05);
    values[X] = 175 + 60.0 * cos(angle);
    values[Y] = 175 + 60.0 * sin(angle);
    values[Z] = 0.2 + 0.2 * (double)(counter / 400 % 400);
    values[E] = 0.0371 * n;
    for (int i = X; i <= E; i++)
        values[LIVE_X + i] = values[i] * (1 - 1e-4) + 0.0123456789;
    values[SPEED] = 120.5 + 30.25 * wave;
    values[EXTRUDER_SPEED] = 4.0 + 1.1 * wave;
    values[PRINT_TIME] = 1316.878893448 + t;
    values[ESTIMATED_TIME] = 1316.129589912 + t;
    values[NOZZLE] = 245 + 0.4 * wave + 0.001 * (double)(counter % 97);
    values[NOZZLE_POWER] = 0.41 + 0.05 * wave;
    values[BED] = 100 + 0.15 * wave + 0.001 * (double)(counter % 89);
    values[BED_POWER] = 0.27 + 0.04 * wave;
    values[CHAMBER] = 48 + 0.5 * wave + 0.01 * (double)(counter % 7);
    values[FAN] = 0.5 + 0.1 * wave;
    values[RPM] = 3000.0 + 400 * wave;
    values[TOTAL] = 38.8545401240001 + t;
    values[PRINTING] = 33.3483396990003 + t;
    values[FILAMENT] = 1.80000123 + 0.0371 * n;
    values[PROGRESS] = fmod(0.25723124516628 + 1e-6 * n, 1.0);
    values[POSITION] = 7393952.0 + (double)(counter % 20000000);
    values[LOAD] = 0.419921875 + 0.01 * wave;
    values[COUNTER] = n;
    values[MEMORY] = 23683388.0 - (double)(counter % 4096);
    values[MCU_AWAKE] = 0.014 + 0.001 * (double)(counter % 3);
    values[MCU_TASK] = 0.000011 + 0.000001 * (double)(counter % 5);
    values[MCU_DEVIATION] = 0.000016;
    values[MCU_BYTES] = 1216834.0 + 117 * n;
}

void printer_field(struct text *out, const struct field *field)
{
    const double *v = values + field->value;
    if (field->fixed)
        text_print(out, "\"%s\":%s", field->name, field->fixed);
    else {
        text_print(out, "\"%s\":", field->name);
        text_print(out, field->format, v[0], v[1], v[2], v[3]);
    }
}

int printer_is_moving(const struct object *object)
{
    for (const struct field *f = object->fields; f->name; f++)
        if (!f->fixed)
            return 1;
    return 0;
}

void printer_status(struct text *out, int only_moving)
{
    int objects = 0;
    text_add(out, "{", 1);
    for (const struct object *o = printer_objects; o->name; o++) {
        if (only_moving && !printer_is_moving(o))
            continue;
        int fields = 0;
        text_print(out, "%s\"%s\":{", objects++ ? "," : "", o->name);
        for (const struct field *f = o->fields; f->name; f++) {
            if (only_moving && f->fixed)
                continue;
            if (fields++)
                text_add(out, ",", 1);
            printer_field(out, f);
        }
        text_add(out, "}", 1);
    }
    text_add(out, "}", 1);
}

static int is_dropped(int number, const char *object, const char *field)
{
    for (int i = 0; i < DROPPABLE_FIELDS; i++)
        if (number >> i & 1 && !strcmp(droppable[i].object, object) && (!field || !strcmp(droppable[i].field, field)))
            return 1;
    return 0;
}

void printer_filter(struct text *out, int number)
{
    int objects = 0;
    text_add(out, "{", 1);
    for (const struct object *o = printer_objects; o->name; o++) {
        if (number >= 0 && !printer_is_moving(o))
            continue;
        text_print(out, "%s\"%s\":", objects++ ? "," : "", o->name);
        if (number < 0 || !is_dropped(number, o->name, NULL)) {
            text_add(out, "null", 4);
            continue;
        }
        int fields = 0;
        for (const struct field *f = o->fields; f->name; f++)
            if (!is_dropped(number, o->name, f->name))
                text_print(out, "%s\"%s\"", fields++ ? "," : "[", f->name);
        text_add(out, "]", 1);
    }
    text_add(out, "}", 1);
}
