/* SPDX-License-Identifier: Apache-2.0 */
/* module.c: models from outside: shared objects that FPGAHAL_EMU_MODELS names, and functions of this process. */
#include "../include/board.h"
#include "../include/emu_control.h"
#include "port.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENVIRONMENT "FPGAHAL_EMU_MODELS"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char *seen; /* the variable's text that has been followed */

static void before(void) { pthread_mutex_lock(&lock); }
static void after(void) { pthread_mutex_unlock(&lock); }
static void watch_fork(void) { pthread_atfork(before, after, after); }

static void load(const char *path)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct emu_model *model = object ? dlsym(object, "fpgahal_emu_model") : NULL;
    const char *why = model ? "its fpgahal_emu_model lacks a name, kernel and execute, or registers and AFU id"
                            : dlerror();
    if (!model || emu_model_add(model, &seen))
        emu_error(NULL, true, "%s (from " ENVIRONMENT ") is no model of an accelerator: %s", path, why);
}

/* Objects stay loaded, as something may still run; their models come and go with the variable. */
void emu_modules_load(void)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&lock);
    const char *now = getenv(ENVIRONMENT);
    if (strcmp(now ? now : "", seen ? seen : "") != 0) {
        emu_model_remove(&seen);
        free(seen);
        seen = strdup(now ? now : "");
        char *list = strdup(now ? now : ""), *rest = NULL;
        for (char *path = list ? strtok_r(list, ":", &rest) : NULL; path; path = strtok_r(NULL, ":", &rest))
            load(path);
        free(list);
    }
    pthread_mutex_unlock(&lock);
}

int fpgahal_emu_register(const char *kernel, const uint8_t *afu_id, int (*execute)(struct emu_call *))
{
    char *name = kernel && *kernel ? strdup(kernel) : NULL; /* stays: ports may look at a model for ever */
    struct emu_model model = { .name = name, .kernel = name, .execute = execute };
    if (afu_id)
        memcpy(model.afu_id, afu_id, sizeof model.afu_id);
    int rc = emu_model_add(&model, (const void *)execute);
    if (rc)
        free(name);
    return rc;
}

int fpgahal_emu_unregister(int (*execute)(struct emu_call *)) { return emu_model_remove((const void *)execute); }
