// Replaces clone(2) while valgrind counts: valgrind supports only the flags of fork(2).
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int clone(int (*run)(void *), void *stack, int flags, void *argument, ...)
{
    (void)stack;
    // Only the gated child asks for a pidfd. The sentinel does not, and bookend works without it.
    if (!(flags & CLONE_PIDFD)) {
        errno = EAGAIN;
        return -1;
    }
    va_list more;
    va_start(more, argument);
    int *pidfd = va_arg(more, int *);
    va_end(more);
    pid_t pid = fork();
    if (pid == 0)
        _exit(run(argument));
    if (pid > 0)
        *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pid;
}
