/*
 * page: the page at /, for people.
 *
 * Owns: the page's files, which are built into the program, and the headers that they are sent
 * with.
 * Leaves to others: what the page asks for (openai_chat, info, panel).
 * Threads: that of the sockets; nothing here takes long.
 *
 * The page shows what a model writes, and a model writes what it has read somewhere. So nothing of
 * that may run, or ask anybody for anything: the browser is told by Content-Security-Policy that
 * the page's own scripts and styles, known by their hashes, are all there is; that it asks this
 * server only; that strings never become markup (Trusted Types); and that no other page may frame
 * it. Names of hosts in links are not looked up before somebody follows the link.
 *
 * page/embed.sh makes the files into C source. The page is one document, so that a browser has it
 * whole or not at all.
 */
#ifndef RUNTIME_SERVE_PAGE_H
#define RUNTIME_SERVE_PAGE_H

#include <stddef.h>

/* Made by page/embed.sh: the document, its icon, and the hashes of its scripts and styles as a
 * policy has them, each with a blank before it. */
extern const unsigned char page_index[], page_icon[];
extern const size_t page_index_bytes, page_icon_bytes;
extern const char page_scripts[], page_styles[];

#endif
