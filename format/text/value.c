#include "format/text/value.h"
#include "format/number.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory -------------------------------------------------------------------------------- */

struct value_block {
    struct value_block *next;
    size_t used, size; /* of `bytes` */
    _Alignas(16) char bytes[];
};

enum { BLOCK_BYTES = 16 << 10, DICT_FEW = 8 };

void *value_alloc(struct value_arena *arena, size_t bytes) {
    struct value_block *b = arena->head;
    if (bytes > SIZE_MAX / 4) {
        return NULL;
    }
    size_t need = align_up(bytes ? bytes : 1, 16);
    if (!b || b->size - b->used < need) {
        size_t left = arena->limit_bytes - arena->used_bytes, head = sizeof *b;
        if (arena->limit_bytes < arena->used_bytes || left < head || left - head < need) {
            arena->exhausted = true;
            return NULL;
        }
        /* Blocks grow with what there is, so that their number stays small. */
        size_t size = arena->used_bytes / 4 < BLOCK_BYTES ? BLOCK_BYTES : arena->used_bytes / 4;
        size = size < need ? need : size;
        size = size > left - head ? left - head : size;
        b = mem_calloc(1, head + size);
        b->size = size;
        arena->used_bytes += head + size;
        /* A block that a large piece fills leaves the present one in use. */
        if (size == need && arena->head) {
            b->next = arena->head->next;
            arena->head->next = b;
        } else {
            b->next = arena->head;
            arena->head = b;
        }
    }
    void *p = b->bytes + b->used;
    b->used += need;
    return p;
}

void value_arena_free(struct value_arena *arena) {
    for (struct value_block *b = arena->head; b;) {
        struct value_block *next = b->next;
        free(b);
        b = next;
    }
    arena->head = NULL;
    arena->used_bytes = 0;
}

/* ---- making -------------------------------------------------------------------------------- */

const struct value_string *value_string_new(struct value_arena *arena, const char *data,
                                            size_t len) {
    struct value_string *s = len < SIZE_MAX / 8 ? value_alloc(arena, sizeof *s + len + 1) : NULL;
    if (!s) {
        return NULL;
    }
    s->len = len;
    if (len) {
        memcpy(s->data, data, len);
    }
    for (size_t i = 0; i < len; i++) {
        s->n_chars += ((unsigned char)data[i] & 0xc0) != 0x80;
    }
    return s;
}

int value_make_string(struct value_arena *arena, const char *data, size_t len, struct value *out) {
    const struct value_string *s = value_string_new(arena, data, len);
    if (!s) {
        return -1;
    }
    *out = (struct value){.type = VALUE_STRING, .text = s};
    return 0;
}

static unsigned depth_of(const struct value *v) {
    switch (v->type) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->list->depth;
    case VALUE_DICT:
        return v->dict->depth;
    default:
        return 0;
    }
}

size_t value_weight(const struct value *v) {
    switch (v->type) {
    case VALUE_STRING:
        return v->text->len / 64;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->list->weight;
    case VALUE_DICT:
        return v->dict->weight;
    default:
        return 0;
    }
}

/* The sum of what an element weighs and of what there is, or the most that can be said. */
static size_t heavier(size_t weight, const struct value *v) {
    size_t more = value_weight(v) + 1;
    return more && weight < SIZE_MAX - more ? weight + more : SIZE_MAX;
}

int value_make_list(struct value_arena *arena, enum value_type type, const struct value *items,
                    size_t n, struct value *out) {
    struct value_list *list =
        n < SIZE_MAX / 64 ? value_alloc(arena, sizeof *list + n * sizeof list->items[0]) : NULL;
    if (!list) {
        return -1;
    }
    list->n = n;
    list->depth = 1;
    list->weight = 1;
    for (size_t i = 0; i < n; i++) {
        unsigned depth = depth_of(&items[i]) + 1;
        list->items[i] = items[i];
        list->weight = heavier(list->weight, &items[i]);
        list->depth = depth > list->depth ? depth : list->depth;
    }
    *out = (struct value){.type = (uint8_t)type, .list = list};
    return list->depth > VALUE_MAX_DEPTH ? -1 : 0;
}

int value_make_dict(struct value_arena *arena, struct value *out) {
    struct value_dict *dict = value_alloc(arena, sizeof *dict);
    if (!dict) {
        return -1;
    }
    dict->depth = 1;
    dict->weight = 1;
    *out = (struct value){.type = VALUE_DICT, .dict = dict};
    return 0;
}

/* ---- numbers ------------------------------------------------------------------------------- */

double value_to_double(const struct value *v) {
    switch (v->type) {
    case VALUE_BOOL:
        return v->boolean;
    case VALUE_INT:
        return (double)v->integer;
    case VALUE_BIGINT:
        return number_parse(v->text->data, NULL);
    case VALUE_FLOAT:
        return v->number;
    default:
        return 0;
    }
}

/* The order of two integers of any size. */
static int compare_integers(const struct value *a, const struct value *b) {
    if (a->type != VALUE_BIGINT && b->type != VALUE_BIGINT) {
        int64_t x = a->type == VALUE_BOOL ? a->boolean : a->integer;
        int64_t y = b->type == VALUE_BOOL ? b->boolean : b->integer;
        return (x > y) - (x < y);
    }
    int sign_a = a->type == VALUE_BIGINT ? (a->text->data[0] == '-' ? -1 : 1) : 0;
    int sign_b = b->type == VALUE_BIGINT ? (b->text->data[0] == '-' ? -1 : 1) : 0;
    if (sign_a != sign_b) {
        return sign_a < sign_b ? -1 : 1;
    }
    int order = a->text->len != b->text->len ? (a->text->len < b->text->len ? -1 : 1)
                                             : memcmp(a->text->data, b->text->data, a->text->len);
    return sign_a < 0 ? -order : order;
}

/* The order of an integer of 64 bits and a float, exactly: a double holds not all of the former. */
static int compare_int_float(int64_t i, double d) {
    if (isnan(d)) {
        return 2;
    }
    if (d >= 9223372036854775808.0) {
        return -1;
    }
    if (d < -9223372036854775808.0) {
        return 1;
    }
    double whole = floor(d);
    int64_t w = (int64_t)whole;
    if (i != w) {
        return i < w ? -1 : 1;
    }
    return d > whole ? -1 : 0;
}

/* 2 where one is a NaN. */
static int compare_numbers(const struct value *a, const struct value *b) {
    if (a->type != VALUE_FLOAT && b->type != VALUE_FLOAT) {
        return compare_integers(a, b);
    }
    if (a->type == VALUE_INT && b->type == VALUE_FLOAT) {
        return compare_int_float(a->integer, b->number);
    }
    if (a->type == VALUE_FLOAT && b->type == VALUE_INT) {
        int order = compare_int_float(b->integer, a->number);
        return order == 2 ? 2 : -order;
    }
    double x = value_to_double(a), y = value_to_double(b);
    if (isnan(x) || isnan(y)) {
        return 2;
    }
    return (x > y) - (x < y);
}

/* ---- asking -------------------------------------------------------------------------------- */

bool value_truth(const struct value *v) {
    switch (v->type) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v->boolean;
    case VALUE_INT:
        return v->integer != 0;
    case VALUE_FLOAT:
        return v->number != 0;
    case VALUE_STRING:
        return v->text->len != 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->list->n != 0;
    case VALUE_DICT:
        return v->dict->n != 0;
    default:
        return true;
    }
}

static bool dicts_equal(const struct value_dict *a, const struct value_dict *b) {
    if (a->n != b->n) {
        return false;
    }
    for (size_t i = 0; i < a->n; i++) {
        const struct value *other = value_dict_get(b, &a->pairs[i].key);
        if (!other || !value_equal(&a->pairs[i].value, other)) {
            return false;
        }
    }
    return true;
}

bool value_equal(const struct value *a, const struct value *b) {
    if (value_is_number(a) && value_is_number(b)) {
        return compare_numbers(a, b) == 0;
    }
    if (a->type != b->type) {
        return false;
    }
    switch (a->type) {
    case VALUE_STRING:
        return a->text->len == b->text->len && !memcmp(a->text->data, b->text->data, a->text->len);
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (a->list->n != b->list->n) {
            return false;
        }
        for (size_t i = 0; a->list != b->list && i < a->list->n; i++) {
            if (!value_equal(&a->list->items[i], &b->list->items[i])) {
                return false;
            }
        }
        return true;
    case VALUE_DICT:
        return a->dict == b->dict || dicts_equal(a->dict, b->dict);
    case VALUE_OBJECT:
        return a->object == b->object;
    default:
        return true; /* none and undefined equal their own kind */
    }
}

bool value_compare(const struct value *a, const struct value *b, int *order) {
    if (value_is_number(a) && value_is_number(b)) {
        *order = compare_numbers(a, b);
        return true;
    }
    if (a->type != b->type) {
        return false;
    }
    if (a->type == VALUE_STRING) {
        /* Bytes of UTF-8 have the order of their code points. */
        size_t n = a->text->len < b->text->len ? a->text->len : b->text->len;
        *order = memcmp(a->text->data, b->text->data, n);
        if (!*order) {
            *order = (a->text->len > b->text->len) - (a->text->len < b->text->len);
        }
        return true;
    }
    if (a->type != VALUE_LIST && a->type != VALUE_TUPLE) {
        return false;
    }
    const struct value_list *x = a->list, *y = b->list;
    for (size_t i = 0; i < x->n && i < y->n; i++) {
        if (!value_equal(&x->items[i], &y->items[i])) {
            return value_compare(&x->items[i], &y->items[i], order);
        }
    }
    *order = (x->n > y->n) - (x->n < y->n);
    return true;
}

bool value_hashable(const struct value *v) {
    if (v->type == VALUE_LIST || v->type == VALUE_DICT) {
        return false;
    }
    for (size_t i = 0; v->type == VALUE_TUPLE && i < v->list->n; i++) {
        if (!value_hashable(&v->list->items[i])) {
            return false;
        }
    }
    return true;
}

const char *value_type_name(const struct value *v) {
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "Undefined", [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",           [VALUE_INT] = "int",
        [VALUE_BIGINT] = "int",          [VALUE_FLOAT] = "float",
        [VALUE_STRING] = "str",          [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",         [VALUE_DICT] = "dict",
    };
    return v->type == VALUE_OBJECT ? v->object->class->name : names[v->type];
}

/* ---- dicts --------------------------------------------------------------------------------- */

/* Equal values have equal hashes, so whole floats are hashed as the integers that they equal. */
static uint64_t hash_of(const struct value *v) {
    switch (v->type) {
    case VALUE_BOOL:
        return hash64(&(int64_t){v->boolean}, sizeof(int64_t));
    case VALUE_INT:
        return hash64(&v->integer, sizeof v->integer);
    case VALUE_FLOAT:
        if (v->number >= -0x1p63 && v->number < 0x1p63 && floor(v->number) == v->number) {
            return hash64(&(int64_t){(int64_t)v->number}, sizeof(int64_t));
        }
        return hash64(&v->number, sizeof v->number);
    case VALUE_BIGINT: { /* that of the float that it may be equal to */
        double number = value_to_double(v);
        return hash64(&number, sizeof number);
    }
    case VALUE_STRING:
        return hash64(v->text->data, v->text->len);
    case VALUE_TUPLE: {
        uint64_t h = 7;
        for (size_t i = 0; i < v->list->n; i++) {
            h = h * 0x9e3779b97f4a7c15u + hash_of(&v->list->items[i]);
        }
        return h;
    }
    case VALUE_OBJECT:
        return hash64(&v->object, sizeof v->object);
    default:
        return v->type;
    }
}

/* The place of a key among the pairs, or n. */
static size_t find(const struct value_dict *dict, const struct value *key) {
    if (!dict->index) {
        for (size_t i = 0; i < dict->n; i++) {
            if (value_equal(&dict->pairs[i].key, key)) {
                return i;
            }
        }
        return dict->n;
    }
    for (size_t h = hash_of(key) & (dict->n_index - 1); dict->index[h];
         h = (h + 1) & (dict->n_index - 1)) {
        if (value_equal(&dict->pairs[dict->index[h] - 1].key, key)) {
            return dict->index[h] - 1;
        }
    }
    return dict->n;
}

const struct value *value_dict_get(const struct value_dict *dict, const struct value *key) {
    size_t i = value_hashable(key) ? find(dict, key) : dict->n;
    return i < dict->n ? &dict->pairs[i].value : NULL;
}

const struct value *value_dict_get_text(const struct value_dict *dict, const char *key,
                                        size_t len) {
    if (dict->index) {
        for (size_t h = hash64(key, len) & (dict->n_index - 1); dict->index[h];
             h = (h + 1) & (dict->n_index - 1)) {
            const struct value_pair *p = &dict->pairs[dict->index[h] - 1];
            if (p->key.type == VALUE_STRING && p->key.text->len == len &&
                !memcmp(p->key.text->data, key, len)) {
                return &p->value;
            }
        }
        return NULL;
    }
    for (size_t i = 0; i < dict->n; i++) {
        const struct value *k = &dict->pairs[i].key;
        if (k->type == VALUE_STRING && k->text->len == len && !memcmp(k->text->data, key, len)) {
            return &dict->pairs[i].value;
        }
    }
    return NULL;
}

static void index_add(struct value_dict *dict, size_t place) {
    size_t h = hash_of(&dict->pairs[place].key) & (dict->n_index - 1);
    while (dict->index[h]) {
        h = (h + 1) & (dict->n_index - 1);
    }
    dict->index[h] = (uint32_t)place + 1;
}

static int grow(struct value_arena *arena, struct value_dict *dict) {
    size_t cap = dict->cap ? dict->cap * 2 : 4;
    struct value_pair *pairs =
        cap < UINT32_MAX / 2 ? value_alloc(arena, cap * sizeof *pairs) : NULL;
    uint32_t *index = pairs && cap > DICT_FEW ? value_alloc(arena, 2 * cap * sizeof *index) : NULL;
    if (!pairs || (cap > DICT_FEW && !index)) {
        return -1;
    }
    if (dict->n) {
        memcpy(pairs, dict->pairs, dict->n * sizeof *pairs);
    }
    dict->pairs = pairs;
    dict->cap = cap;
    dict->index = index;
    dict->n_index = index ? 2 * cap : 0;
    for (size_t i = 0; index && i < dict->n; i++) {
        index_add(dict, i);
    }
    return 0;
}

int value_dict_set(struct value_arena *arena, struct value_dict *dict, const struct value *key,
                   const struct value *value) {
    unsigned depth = depth_of(value) + 1;
    if (depth > VALUE_MAX_DEPTH) {
        return -1;
    }
    dict->depth = depth > dict->depth ? depth : dict->depth;
    dict->weight = heavier(heavier(dict->weight, value), key);
    size_t i = find(dict, key);
    if (i < dict->n) {
        dict->pairs[i].value = *value;
        return 0;
    }
    if (dict->n == dict->cap && grow(arena, dict)) {
        return -1;
    }
    dict->pairs[dict->n] = (struct value_pair){*key, *value};
    if (dict->index) {
        index_add(dict, dict->n);
    }
    dict->n++;
    return 0;
}

int value_dict_set_text(struct value_arena *arena, struct value_dict *dict, const char *key,
                        size_t len, const struct value *value) {
    struct value k;
    return value_make_string(arena, key, len, &k) ? -1 : value_dict_set(arena, dict, &k, value);
}

/* ---- sorting ------------------------------------------------------------------------------- */

/* A merge of runs. */
int value_sort(size_t *order, size_t *scratch, size_t n,
               int (*before)(void *ctx, size_t a, size_t b, bool *is), void *ctx) {
    for (size_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t mid = begin + width < n ? begin + width : n;
            size_t end = begin + 2 * width < n ? begin + 2 * width : n;
            for (size_t i = begin, a = begin, b = mid; i < end; i++) {
                bool second = a == mid;
                int rc = a < mid && b < end ? before(ctx, order[b], order[a], &second) : 0;
                if (rc) {
                    return rc;
                }
                scratch[i] = second ? order[b++] : order[a++];
            }
        }
        memcpy(order, scratch, n * sizeof *order);
    }
    return 0;
}
