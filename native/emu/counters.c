/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counters.c: the management engine's counters, as the older Intel driver's sysfs shows them.  (The kernel's own
 * driver has none there.)
 *
 * The files are mapped, because writing them would take longer than a small run; their texts have a fixed width.
 * One board's are kept: who has more than one moves large data between two looks at them.
 */
#define _GNU_SOURCE 1
#include "port.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT "0x0000000000000000\n"
enum { FILES = 4, DIGITS = 16, BYTES = sizeof TEXT - 1 };

static const struct { const char *name; int counter; } files[FILES] = {
    { "cache/read_miss", EMU_PERF_RD_MISS }, { "cache/write_miss", EMU_PERF_WR_MISS },
    { "fabric/pcie0_read", EMU_PERF_PCIE0_READ }, { "fabric/pcie0_write", EMU_PERF_PCIE0_WRITE },
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Whose files are mapped.  A board that comes back has new ones, and another epoch. */
static char rack_dir[4096];
static uint32_t index_;
static uint64_t epoch;
static char *texts[FILES]; /* NULL: it has no such file */

static char *map_text(const char *folder, const char *name)
{
    char path[4096];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char *at = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size == BYTES)
        at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return at == MAP_FAILED ? NULL : at;
}

/* With the lock: the files of this board. */
static void choose(const struct emu_rack *rack, const struct emu_board *b)
{
    static const char port[] = "/intel-fpga-port.";
    if (epoch == atomic_load(&b->epoch) && index_ == b->index && strcmp(rack_dir, rack->dir) == 0)
        return;
    epoch = atomic_load(&b->epoch);
    index_ = b->index;
    strcpy(rack_dir, rack->dir);
    const char *found = strstr(b->identity, port);
    char folder[4096] = "";
    if (found)
        snprintf(folder, sizeof folder, "%s/%.*s/intel-fpga-fme.%lu/dperf", rack->dir, (int)(found - b->identity),
                 b->identity, strtoul(found + strlen(port), NULL, 10));
    for (int i = 0; i < FILES; i++) {
        if (texts[i])
            munmap(texts[i], BYTES);
        texts[i] = found ? map_text(folder, files[i].name) : NULL;
    }
}

void emu_counters_show(const struct emu_rack *rack, const struct emu_board *b)
{
    pthread_mutex_lock(&lock);
    choose(rack, b);
    for (int i = 0; i < FILES; i++) {
        char digits[DIGITS];
        uint64_t value = b->perf[files[i].counter];
        for (int at = DIGITS; at--; value >>= 4)
            digits[at] = "0123456789abcdef"[value & 15];
        if (texts[i])
            memcpy(texts[i] + 2, digits, DIGITS);
    }
    pthread_mutex_unlock(&lock);
}
