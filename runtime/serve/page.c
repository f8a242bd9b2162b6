/*
 * page: see page.h.
 */
#include "runtime/serve/page.h"

#include "runtime/serve/serve.h"

static void answer(struct http_exchange *x, const char *type, const unsigned char *bytes,
                   size_t n) {
    struct buf policy = {0}, body = {0};
    buf_printf(&policy,
               "default-src 'none'; script-src%s; style-src%s; connect-src 'self'; img-src 'self'; "
               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
               "require-trusted-types-for 'script'; trusted-types 'none'",
               page_scripts, page_styles);
    http_set_header(x, "Content-Security-Policy", policy.data);
    http_set_header(x, "Referrer-Policy", "no-referrer");
    http_set_header(x, "X-DNS-Prefetch-Control", "off");
    http_set_header(x, "X-Frame-Options", "DENY");
    http_set_header(x, "Cross-Origin-Opener-Policy", "same-origin");
    http_set_header(x, "Cross-Origin-Resource-Policy", "same-origin");
    buf_free(&policy);
    buf_append(&body, bytes, n);
    http_answer(x, 200, type, &body);
}

int page_root(struct call *call, struct problem *problem) {
    (void)problem;
    answer(call->x, "text/html; charset=utf-8", page_index, page_index_bytes);
    return 0;
}

int page_picture(struct call *call, struct problem *problem) {
    (void)problem;
    answer(call->x, "image/svg+xml", page_icon, page_icon_bytes);
    return 0;
}
