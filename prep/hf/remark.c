#include "prep/hf/remark.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void remark_add(struct buf *remarks, const char *fmt, ...) {
    char line[1024];
    if (!remarks) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    text_clean(line, strlen(line));
    buf_printf(remarks, "%s\n", line);
}
