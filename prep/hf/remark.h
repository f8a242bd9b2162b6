/*
 * remark: lines for people about what a checkpoint says and what was made of it: what is left out,
 * what counts where files differ. They are no errors; `corm-prep convert` prints them.
 */
#ifndef PREP_HF_REMARK_H
#define PREP_HF_REMARK_H

#include "format/base.h"

/* Append one line, cut where it is very long, without control characters. `remarks` NULL: they are
 * not wanted. */
void remark_add(struct buf *remarks, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
