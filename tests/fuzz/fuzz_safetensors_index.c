/*
 * fuzz_safetensors_index: any bytes as model.safetensors.index.json, beside two shards. What opens
 * has tensors of these alone, in files of this folder; each is listed once, or skipped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INDEX, FIRST, SECOND, FILES };
static const char *const names[FILES] = {"model.safetensors.index.json", "1.safetensors",
                                         "2.safetensors"};
static char dir[] = "/tmp/corm-fuzz-XXXXXX";
static char *paths[FILES];

static void check(bool ok) {
    if (!ok) {
        abort();
    }
}

static void remove_dir(void) {
    for (int i = 0; i < FILES; i++) {
        unlink(paths[i]);
        free(paths[i]);
    }
    rmdir(dir);
}

static void write_file(int file, const void *data, size_t bytes) {
    struct err err = {0};
    int fd = open(paths[file], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check(fd >= 0 && file_write_all(fd, data, bytes, paths[file], &err) == 0);
    close(fd);
}

/* A tensor of one byte. */
static void write_shard(int file, const char *tensor) {
    char text[128];
    int n = snprintf(text + 8, sizeof text - 8,
                     "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}.", tensor);
    uint64_t header_bytes = (uint64_t)n - 1;
    memcpy(text, &header_bytes, sizeof header_bytes);
    write_file(file, text, 8 + (size_t)n);
}

static void make_dir(void) {
    check(mkdtemp(dir) != NULL);
    for (int i = 0; i < FILES; i++) {
        paths[i] = mem_printf("%s/%s", dir, names[i]);
    }
    write_shard(FIRST, "a");
    write_shard(SECOND, "b");
    check(atexit(remove_dir) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!paths[INDEX]) {
        make_dir();
    }
    write_file(INDEX, data, size);
    struct safetensors *st;
    struct err err = {0};
    if (st_open(&st, dir, &err) == 0) {
        check(st_file_count(st) == 1 + st_count(st) + st_skipped_count(st));
        check(st_count(st) + st_absent_count(st) >= 1);
        for (size_t i = 0; i < st_absent_count(st); i++) {
            check(!st_find(st, st_absent(st, i)->name));
            check(strncmp(st_absent(st, i)->file, dir, sizeof dir - 1) == 0);
        }
        for (size_t i = 0; i < st_count(st); i++) {
            check(st_at(st, i)->bytes == 1 && st_at(st, i)->data[0] == '.');
        }
        for (size_t i = 0; i < st_file_count(st); i++) {
            check(strncmp(st_file_path(st, i), dir, sizeof dir - 1) == 0);
        }
        st_close(st);
    } else {
        check(err.set && !strchr(err.msg, '\n'));
    }
    return 0;
}
