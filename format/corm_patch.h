/*
 * corm_patch: replaces the bytes of one small section of a finished archive by as many others.
 *
 * Owns: the section's bytes, its checksum, and the checksums of the section table and the header.
 * Leaves to others: everything else in the file, which is not touched.
 *
 * It is for prep, which measures an archive before it gets its final name. A file whose patching
 * was killed half-way fails its checksums.
 */
#ifndef FORMAT_CORM_PATCH_H
#define FORMAT_CORM_PATCH_H

#include "format/base.h"
#include "format/corm_file.h"

/* `bytes` must be the section's size. The file is fsynced. */
int corm_patch_section(const char *path, uint32_t section_type, const void *data, size_t bytes,
                       struct err *err);

#endif
