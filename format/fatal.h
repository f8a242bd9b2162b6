/*
 * fatal: the ends of a program that no function can report, and what is still to be done in them.
 *
 * Owns: the signal of a page that a map lost (the file was truncated, or its disk fails), which
 * ends in one line with the file's name and the offset; ends by `die`, by exhausted memory, and by
 * any other signal that ends a program and can be caught (Ctrl-\, a limit on time, an alarm, a
 * crash); and the limit on the size of files, which becomes an error of write(2).
 * Leaves to others: signals by which somebody asks for an end (the mains), but for the second one.
 * Threads: fatal_catch is called once, by the main thread before there are others. What it arranges
 * may run on any thread.
 */
#ifndef FORMAT_FATAL_H
#define FORMAT_FATAL_H

#include <signal.h>

/* Arrange for all of the above. `clean`, which may be NULL, removes what must not be left behind.
 * It is called at most once, perhaps in a signal handler: it may only do what is safe there. */
void fatal_catch(void (*clean)(void));
/* For a signal handler: end by this signal as if it had not been caught, but cleaned up. Returns
 * where the signal is blocked, as it is in its own handler, and ends the program when that
 * returns. */
void fatal_end(int number);

/* Put off all signals to this thread, and let them come again: for whoever makes a file, gives it
 * its last name or removes it, and tells `clean` of that. There must be no moment in which one of
 * the two has happened and the other has not. */
void fatal_hold(sigset_t *before);
void fatal_release(const sigset_t *before);

#endif
