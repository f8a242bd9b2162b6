#include "format/corm_compress.h"

#include "format/corm_chunk.h"
#include "format/corm_read.h"

const char *const corm_compress_words[] = {[CORM_COMPRESS_NONE] = "none",
                                           [CORM_COMPRESS_AUTO] = "auto",
                                           [CORM_COMPRESS_ZSTD] = "zstd",
                                           [CORM_COMPRESS_EXPONENTS] = "exponents",
                                           [CORM_COMPRESS_WAYS] = NULL};

int corm_compress_check(enum corm_compress how, const struct codec *codec, struct err *err) {
    if (how != CORM_COMPRESS_EXPONENTS || corm_chunk_may_be(CORM_ENCODING_EXPONENTS, codec)) {
        return 0;
    }
    return err_set(err,
                   "--compress exponents: codec %s has no exponents code, bf16 alone has one: "
                   "choose zstd, auto or none",
                   codec->name);
}

const char *corm_compress_of(const struct corm *c) {
    bool exponents = corm_chunk_encoded(c, CORM_ENCODING_EXPONENTS);
    bool zstd =
        corm_chunk_encoded(c, CORM_ENCODING_ZSTD) || corm_chunk_encoded(c, CORM_ENCODING_PLANES);
    return zstd && exponents ? "zstd and exponents"
           : zstd            ? corm_compress_words[CORM_COMPRESS_ZSTD]
           : exponents       ? corm_compress_words[CORM_COMPRESS_EXPONENTS]
                             : corm_compress_words[CORM_COMPRESS_NONE];
}
