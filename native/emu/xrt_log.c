/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_log.c: XRT's ini keys and messages.  Where messages go is decided at the first one and is final,
 * as in the real library: fpgahal points Runtime.runtime_log at a file of its own to read error texts.
 */
#define _GNU_SOURCE 1
#include "xrt_log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_KEY "Runtime.runtime_log"
#define MAX_KEYS 64

static struct {
    char key[64], value[512];
} keys[MAX_KEYS];
static unsigned nkeys;
static bool started; /* the first message was sent */
static FILE *target; /* NULL: nowhere */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all above */

static const char *lookup(const char *key)
{
    for (unsigned i = 0; i < nkeys; i++)
        if (strcmp(keys[i].key, key) == 0)
            return keys[i].value;
    return NULL;
}

int xrt_ini_set(const char *key, const char *value)
{
    if (!key || !*key || !value || strlen(key) >= sizeof keys->key || strlen(value) >= sizeof keys->value) {
        errno = EINVAL;
        return -1;
    }
    int rc = -1;
    pthread_mutex_lock(&lock);
    char *at = (char *)lookup(key);
    if (started && strcmp(key, LOG_KEY) == 0) {
        errno = EBUSY;
    } else if (at || nkeys < MAX_KEYS) {
        if (!at) {
            strcpy(keys[nkeys].key, key);
            at = keys[nkeys++].value;
        }
        strcpy(at, value);
        rc = 0;
    } else {
        errno = ENOSPC;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

bool xrt_ini_bool(const char *key, bool otherwise)
{
    pthread_mutex_lock(&lock);
    const char *value = lookup(key);
    bool yes = value ? strcmp(value, "true") == 0 || strcmp(value, "1") == 0 : otherwise;
    pthread_mutex_unlock(&lock);
    return yes;
}

static void start(void)
{
    const char *where = lookup(LOG_KEY);
    started = true;
    if (!where || strcmp(where, "console") == 0) {
        target = stderr;
    } else if (*where && strcmp(where, "null") != 0 && strcmp(where, "syslog") != 0) {
        target = fopen(where, "we");
        if (target)
            setvbuf(target, NULL, _IONBF, 0); /* a reader sees each line at once, and whole */
        else
            fprintf(stderr, "EMULATED: cannot open %s for messages: %s\n", where, strerror(errno));
    }
}

void xrt_report(const struct emu_board *board, const char *text)
{
    char line[900], stamp[32];
    struct tm now;
    time_t t = time(NULL);
    gmtime_r(&t, &now);
    strftime(stamp, sizeof stamp, "%a %b %e %H:%M:%S %Y", &now);
    int n = snprintf(line, sizeof line - 1, "[%s GMT] [XRT] Tid: %lu,  ERROR: EMULATED%s%s: %s", stamp,
                     (unsigned long)pthread_self(), board ? " " : "", board ? board->bdf : "", text);
    size_t size = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
    for (size_t i = 0; i < size; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' '; /* one line a message */
    line[size++] = '\n';
    pthread_mutex_lock(&lock);
    if (!started)
        start();
    if (target)
        fwrite(line, 1, size, target);
    pthread_mutex_unlock(&lock);
}

int xrt_fail(const struct emu_board *board, int code, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    emu_error(board, false, "%s", text);
    xrt_report(board, text);
    errno = code;
    return -1;
}

void xrt_log_before_fork(void)
{
    pthread_mutex_lock(&lock);
}

void xrt_log_after_fork(void)
{
    pthread_mutex_unlock(&lock);
}
