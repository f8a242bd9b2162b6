/*
 * chat_book: what an archive holds for conversations beside its tokenizer: further chat templates,
 * each with a name; the names of special tokens; which tokens the checkpoint calls control tokens.
 *
 * Owns: the section's bytes, both ways (docs/FORMAT.md, section 7), and which template counts.
 * Leaves to others: the default template, which is the tokenizer section's; rendering (chat.h).
 * Threads: a book does not change once it is open.
 */
#ifndef FORMAT_TEXT_CHAT_BOOK_H
#define FORMAT_TEXT_CHAT_BOOK_H

#include "format/base.h"
#include "format/text/value.h"

/* Also the numbers in the archive. */
enum chat_entry_kind {
    CHAT_ENTRY_TEMPLATE = 1, /* name, Jinja text */
    CHAT_ENTRY_TOKEN = 2,    /* name as templates have it ("pad_token"), the token's text */
    CHAT_ENTRY_CONTROL = 3,  /* no name, the token's text */
    CHAT_ENTRY_KINDS,
};

struct chat_entry {
    enum chat_entry_kind kind;
    const char *name, *text; /* not NUL-terminated */
    size_t name_bytes, bytes;
};
/* Zero-initialised it is an empty one. */
struct chat_book {
    struct chat_entry *entries; /* [n] */
    size_t n;
};

/* Check a section, whose bytes are borrowed until chat_book_close; no bytes are an empty book.
 * Entries of kinds that are not known are passed over. */
int chat_book_open(struct chat_book *book, const void *section, size_t bytes, struct err *err);
void chat_book_close(struct chat_book *book);
/* Whether an entry may be called so: 1 to 64 bytes of UTF-8 without control characters. */
bool chat_book_is_name(const char *name, size_t bytes);
/* The entry of a kind and name, or NULL. */
const struct chat_entry *chat_book_find(const struct chat_book *book, enum chat_entry_kind kind,
                                        const char *name, size_t name_bytes);
/* The template that a request asks for: `*text` and `*len` become those of "tool_use" where it has
 * tools and there is such a template; else they stay, as those of the default template (NULL: there
 * is none, which is an error that names those there are). `request` may be NULL. */
int chat_book_choose(const struct chat_book *book, const struct value *request, const char **text,
                     size_t *len, struct err *err);

/* Append an entry to a section's bytes, which begin with none. Entries of one kind have different
 * names. */
void chat_book_add(struct buf *section, enum chat_entry_kind kind, const char *name,
                   size_t name_bytes, const char *text, size_t bytes);

#endif
