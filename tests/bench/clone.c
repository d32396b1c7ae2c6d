// Stands in for clone(2) while valgrind counts, since valgrind follows no child but that of fork(2).
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int clone(int (*run)(void *), void *stack, int flags, void *argument, ...)
{
    (void)stack;
    // The sentinel (src/process/sentinel.rs): bookend does without where there is no room for one.
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
