/* machine.c - how much memory there is: the machine's, and what the control groups of this process leave of it. See
 * mem.h. Source of names and meanings: the kernel's cgroup-v1/memory, cgroup-v2 and proc(5) documents. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define PATH_BYTES 1024

static const char *system_root = "";
static uint64_t (*available_fn)(void);

void mem_test_available(uint64_t (*available)(void)) { available_fn = available; }
void mem_test_root(const char *root) { system_root = root ? root : ""; }

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static FILE *open_system(const char *path)
{
    char full[2 * PATH_BYTES];
    int n = snprintf(full, sizeof full, "%s%s", system_root, path);
    return n > 0 && (size_t)n < sizeof full ? fopen(full, "re") : NULL;
}

/* First number of the file, or of its line that begins with key; UINT64_MAX when there is none ("max"). */
static uint64_t number_of(const char *path, const char *key)
{
    char line[256];
    FILE *file = open_system(path);
    if (!file) return UINT64_MAX;
    uint64_t value = UINT64_MAX;
    while (fgets(line, sizeof line, file)) {
        if (key && strncmp(line, key, strlen(key)) != 0) continue;
        char *digits = strpbrk(line, "0123456789");
        if (digits) value = strtoull(digits, NULL, 10);
        break;
    }
    (void)fclose(file);
    return value;
}

/* ---- control groups ----------------------------------------------------------------------------------------- */

struct group_version {
    const char *mount, *limit, *high, *used, *active_file, *inactive_file;
};
static const struct group_version versions[] = {
    {"/sys/fs/cgroup", "memory.max", "memory.high", "memory.current", "active_file ", "inactive_file "},
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_active_file ",
     "total_inactive_file "},
};

struct room {
    uint64_t limit, left; /* the smallest of all groups */
};

static uint64_t number_in(const char *dir, const char *name, const char *key)
{
    char path[2 * PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return name[0] && n > 0 && (size_t)n < sizeof path ? number_of(path, key) : UINT64_MAX;
}

static uint64_t or_zero(uint64_t n) { return n == UINT64_MAX ? 0 : n; }

static void look_at_group(const struct group_version *v, const char *dir, struct room *room)
{
    uint64_t limit = min_u64(number_in(dir, v->limit, NULL), number_in(dir, v->high, NULL));
    if (limit == UINT64_MAX) return;
    uint64_t used = or_zero(number_in(dir, v->used, NULL));
    uint64_t pages = or_zero(number_in(dir, "memory.stat", v->active_file)) +
                     or_zero(number_in(dir, "memory.stat", v->inactive_file)); /* of files: given up when asked */
    used -= min_u64(used, pages);
    room->limit = min_u64(room->limit, limit);
    room->left = min_u64(room->left, limit > used ? limit - used : 0);
}

/* The group itself and all above it. Inside a container the path may be one that only its host has: then what is
 * mounted is the group. */
static void look_upwards(const struct group_version *v, const char *group, struct room *room)
{
    char dir[PATH_BYTES];
    size_t mount = strlen(v->mount);
    int n = snprintf(dir, sizeof dir, "%s%s", v->mount, group);
    if (n <= 0 || (size_t)n >= sizeof dir) (void)snprintf(dir, sizeof dir, "%s", v->mount);
    for (size_t len = strlen(dir); len > mount && dir[len - 1] == '/'; len--) dir[len - 1] = 0;
    look_at_group(v, dir, room);
    while (strlen(dir) > mount) {
        *strrchr(dir, '/') = 0;
        look_at_group(v, dir, room);
    }
}

/* Lines of /proc/self/cgroup: "0::/path" for version 2, "5:memory:/path" among others for version 1. */
static struct room look_at_groups(void)
{
    struct room room = {UINT64_MAX, UINT64_MAX};
    char line[PATH_BYTES];
    FILE *file = open_system("/proc/self/cgroup");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *kinds = strchr(line, ':'), *path = kinds ? strchr(kinds + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        if (kinds[1] == 0) look_upwards(&versions[0], path, &room);
        else if (strstr(kinds, "memory")) look_upwards(&versions[1], path, &room);
    }
    if (file) (void)fclose(file);
    return room;
}

/* ---- the doors ------------------------------------------------------------------------------------------------ */

uint64_t mem_machine_bytes(void)
{
    uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE);
    return min_u64(pages * page, look_at_groups().limit);
}

double mem_stall_percent(void)
{
    double percent = 0;
    FILE *file = available_fn ? NULL : open_system("/proc/pressure/memory");
    if (!file) return 0;
    if (fscanf(file, "some avg10=%lf", &percent) != 1) percent = 0;
    (void)fclose(file);
    return percent;
}

uint64_t mem_available_bytes(void)
{
    if (available_fn) return available_fn();
    uint64_t kib = number_of("/proc/meminfo", "MemAvailable");
    uint64_t there = kib < UINT64_MAX / 1024 ? kib * 1024 : mem_machine_bytes();
    struct room room = look_at_groups();
    return min_u64(there, min_u64(room.left, room.limit));
}
