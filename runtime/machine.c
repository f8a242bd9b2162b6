#include "runtime/machine.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A file that holds one number, or "max". */
static bool read_number(const char *path, uint64_t *out) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    char text[64] = "";
    bool ok = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    if (ok && strncmp(text, "max", 3) == 0) {
        *out = UINT64_MAX;
        return true;
    }
    return ok && sscanf(text, "%" SCNu64, out) == 1;
}

/* The value of `key` in a file of lines "key value" or "key: value kB". */
static bool read_keyed(const char *path, const char *key, uint64_t *out) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    char line[256];
    size_t n = strlen(key);
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) == 0 && (line[n] == ' ' || line[n] == ':')) {
            found = sscanf(line + n + 1, "%" SCNu64, out) == 1;
        }
    }
    fclose(f);
    return found;
}

/* Both lists of the page cache can be reclaimed, as MemAvailable counts them: what is active is
 * often the archive itself, of a run before. */
struct cgroup_names {
    const char *root, *limit, *usage, *reclaimable[2];
};
static const struct cgroup_names V1 = {"/sys/fs/cgroup/memory",
                                       "memory.limit_in_bytes",
                                       "memory.usage_in_bytes",
                                       {"total_inactive_file", "total_active_file"}};
static const struct cgroup_names V2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}};

/* Room left in a cgroup and all above it. */
static uint64_t cgroup_room(const struct cgroup_names *names, const char *path) {
    uint64_t room = UINT64_MAX;
    char dir[4096], file[4352];
    if (snprintf(dir, sizeof dir, "%s%s", names->root, path) >= (int)sizeof dir) {
        return room;
    }
    for (;;) {
        uint64_t limit = UINT64_MAX, usage = 0, reclaimable = 0;
        snprintf(file, sizeof file, "%s/%s", dir, names->limit);
        bool limited = read_number(file, &limit) && limit < UINT64_MAX / 4;
        snprintf(file, sizeof file, "%s/%s", dir, names->usage);
        if (limited && read_number(file, &usage)) {
            snprintf(file, sizeof file, "%s/memory.stat", dir);
            for (int i = 0; i < 2; i++) {
                if (read_keyed(file, names->reclaimable[i], &reclaimable)) {
                    usage -= reclaimable < usage ? reclaimable : usage;
                }
            }
            uint64_t left = limit > usage ? limit - usage : 0;
            room = left < room ? left : room;
        }
        if (strlen(dir) <= strlen(names->root)) {
            return room;
        }
        *strrchr(dir, '/') = '\0';
    }
}

static uint64_t all_cgroups_room(void) {
    uint64_t room = UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) {
        return room;
    }
    char line[4096];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        /* "hierarchy:controllers:path"; controllers are empty for v2. */
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) {
            continue;
        }
        *path++ = '\0';
        controllers++;
        uint64_t r = UINT64_MAX;
        if (*controllers == '\0') {
            r = cgroup_room(&V2, path);
        } else if (strcmp(controllers, "memory") == 0) {
            r = cgroup_room(&V1, path);
        }
        room = r < room ? r : room;
    }
    fclose(f);
    return room;
}

/* A number of this process's status that is in kB. */
static uint64_t status_bytes(const char *key) {
    uint64_t kb;
    return read_keyed("/proc/self/status", key, &kb) ? kb * 1024 : 0;
}

uint64_t machine_size_bytes(void) {
    return status_bytes("VmSize");
}

uint64_t machine_resident_bytes(void) {
    return status_bytes("VmRSS");
}

uint64_t machine_peak_bytes(void) {
    return status_bytes("VmHWM");
}

uint64_t machine_available_bytes(void) {
    uint64_t kb, available = UINT64_MAX;
    if (read_keyed("/proc/meminfo", "MemAvailable", &kb)) {
        available = kb * 1024;
    }
    uint64_t room = all_cgroups_room(), addresses = machine_address_bytes();
    room = addresses < room ? addresses : room;
    return room < available ? room : available;
}

uint64_t machine_address_bytes(void) {
    static const struct {
        int limit;
        const char *used;
    } rows[] = {{RLIMIT_AS, "VmSize"}, {RLIMIT_DATA, "VmData"}};
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rlimit limit;
        uint64_t kb;
        if (getrlimit((__rlimit_resource_t)rows[i].limit, &limit) == 0 &&
            limit.rlim_cur != RLIM_INFINITY && read_keyed("/proc/self/status", rows[i].used, &kb)) {
            uint64_t used = kb * 1024, left = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
            least = left < least ? left : least;
        }
    }
    return least;
}

uint64_t machine_page_bytes(void) {
    long bytes = sysconf(_SC_PAGESIZE);
    return bytes > 0 ? (uint64_t)bytes : 4096;
}

uint64_t machine_stack_bytes(void) {
    pthread_attr_t attr;
    size_t bytes = 0;
    if (pthread_attr_init(&attr) == 0) {
        pthread_attr_getstacksize(&attr, &bytes);
        pthread_attr_destroy(&attr);
    }
    return bytes;
}
