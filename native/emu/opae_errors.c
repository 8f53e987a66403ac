/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_errors.c: error registers.  A port has one, which the board keeps.  Those of a device are what its
 * driver shows in sysfs; nothing sets them but who writes to inject_error.
 */
#define _GNU_SOURCE 1
#include "opae.h"

#include <stdio.h>
#include <string.h>

struct error {
    const char *name;
    const char *file; /* below the device's folder */
    bool can_clear;
};

static const struct error of_dfl[] = {
    { "fme_errors", "errors/fme_errors", true },           { "pcie0_errors", "errors/pcie0_errors", true },
    { "pcie1_errors", "errors/pcie1_errors", true },       { "nonfatal_errors", "errors/nonfatal_errors", false },
    { "catfatal_errors", "errors/catfatal_errors", false }, { "inject_errors", "errors/inject_errors", true },
};
static const struct error of_intel_fpga[] = {
    { "fme-errors", "errors/fme-errors/errors", true },
    { "pcie0_errors", "errors/pcie0_errors", true },
    { "pcie1_errors", "errors/pcie1_errors", true },
    { "inject_error", "errors/inject_error", true },
};

static uint32_t errors_of(const struct emu_board *b, fpga_objtype type, const struct error **out)
{
    static const struct error of_port[] = { { "errors", NULL, true } };
    if (type == FPGA_ACCELERATOR) {
        *out = of_port;
        return 1;
    }
    bool old = strstr(b->identity, "/intel-fpga-port.") != NULL;
    *out = old ? of_intel_fpga : of_dfl;
    if (!old && !strstr(b->identity, "/dfl-port."))
        return 0; /* a rack without a driver's tree */
    return old ? sizeof of_intel_fpga / sizeof *of_intel_fpga : sizeof of_dfl / sizeof *of_dfl;
}

uint32_t opae_num_errors(const struct emu_board *b, fpga_objtype type)
{
    const struct error *errors;
    return errors_of(b, type, &errors);
}

static fpga_result look_up(fpga_token t, uint32_t number, const char *call, struct opae_token **out,
                           const struct error **error)
{
    struct opae_token *token = *out = opae_token(t);
    if (!token)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(token->rack, token->board, call);
    if (result)
        return result;
    if (number >= errors_of(token->board, token->type, error))
        return FPGA_NOT_FOUND;
    *error += number;
    return FPGA_OK;
}

fpga_result fpgaReadError(fpga_token t, uint32_t number, uint64_t *value)
{
    struct opae_token *token;
    const struct error *error;
    if (!value)
        return FPGA_INVALID_PARAM;
    fpga_result result = look_up(t, number, __func__, &token, &error);
    if (result)
        return result;
    if (error->file)
        return opae_attribute_read(token->rack, token->board, error->file, value) ? FPGA_OK : FPGA_EXCEPTION;
    emu_lock(token->board);
    *value = token->board->errors;
    emu_unlock(token->board);
    return FPGA_OK;
}

fpga_result fpgaGetErrorInfo(fpga_token t, uint32_t number, struct fpga_error_info *info)
{
    struct opae_token *token;
    const struct error *error;
    if (!info)
        return FPGA_INVALID_PARAM;
    fpga_result result = look_up(t, number, __func__, &token, &error);
    if (result)
        return result;
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "%s", error->name);
    info->can_clear = error->can_clear;
    return FPGA_OK;
}

static fpga_result clear(struct opae_token *token, const struct error *error)
{
    if (error->file)
        return opae_attribute_write(token->rack, token->board, error->file, 0) ? FPGA_OK : FPGA_EXCEPTION;
    emu_lock(token->board);
    token->board->errors = 0;
    emu_unlock(token->board);
    return FPGA_OK;
}

fpga_result fpgaClearError(fpga_token t, uint32_t number)
{
    struct opae_token *token;
    const struct error *error;
    fpga_result result = look_up(t, number, __func__, &token, &error);
    if (result)
        return result;
    return error->can_clear ? clear(token, error) : FPGA_NOT_SUPPORTED;
}

fpga_result fpgaClearAllErrors(fpga_token t)
{
    struct opae_token *token = opae_token(t);
    const struct error *errors;
    if (!token)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(token);
    fpga_result result = FPGA_OK;
    uint32_t n = errors_of(token->board, token->type, &errors);
    for (uint32_t i = 0; i < n && result == FPGA_OK; i++) {
        if (errors[i].can_clear)
            result = clear(token, &errors[i]);
    }
    return result;
}
