/*
 * fatal: the ends of a program that no function can report, and what is still to be done in them.
 *
 * Owns: the signal of a page that a map lost (the file was truncated, or its disk fails), which
 * ends in one line with the file's name and the offset; ends by `die` and by exhausted memory; and
 * the limit on the size of files, which becomes an error of write(2).
 * Leaves to others: signals by which somebody asks for an end (the mains).
 * Threads: fatal_catch is called once, by the main thread before there are others. What it arranges
 * may run on any thread.
 */
#ifndef FORMAT_FATAL_H
#define FORMAT_FATAL_H

/* Arrange for all of the above. `clean`, which may be NULL, removes what must not be left behind.
 * It is called at most once, perhaps in a signal handler: it may only do what is safe there. */
void fatal_catch(void (*clean)(void));

#endif
