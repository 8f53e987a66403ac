/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_log.h: ini keys, and the messages of calls that fail. */
#ifndef FPGAHAL_XRT_LOG_H
#define FPGAHAL_XRT_LOG_H

#include "../include/board.h"

/* 0; -1 when the key is bad or its value was already used. */
int xrt_ini_set(const char *key, const char *value);
bool xrt_ini_bool(const char *key, bool otherwise);

/* Report a failure of `board` (may be NULL): a line in XRT's log, the text of fpgahal_emu_error, errno.
 * Returns -1, what most calls return then. */
int xrt_fail(const struct emu_board *, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The line only. */
void xrt_report(const struct emu_board *, const char *text);

void xrt_log_before_fork(void);
void xrt_log_after_fork(void);

#endif
