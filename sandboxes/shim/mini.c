/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few C library functions these programs use, straight on the system call.
 *
 * A static glibc program spends most of its start-up asking the processor what it
 * can (cpuid traps in every virtual machine: 0.5 ms against 0.01 ms here), and this
 * start-up is paid once per tool call. Where this file knows the processor it is
 * linked instead of a C library; elsewhere, and in the sanitizer build, the same
 * sources link against glibc.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

char **environ;
static int last_error;

int *__errno_location(void)
{
	return &last_error;
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call mini_start\n");

static long raw(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#else
#error "no system call for this processor here: build with LIBC=1"
#endif

int main(int argc, char **argv);

__attribute__((noreturn, used)) void mini_start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);

	environ = argv + argc + 1;
	_exit(main(argc, argv));
}

static long checked(long result)
{
	if (result < 0 && result >= -4095) {
		last_error = (int)-result;
		return -1;
	}
	return result;
}

#define CALL6(n, a, b, c, d, e, f) \
	checked(raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)))
#define CALL5(n, a, b, c, d, e) CALL6(n, a, b, c, d, e, 0)
#define CALL4(n, a, b, c, d) CALL6(n, a, b, c, d, 0, 0)
#define CALL3(n, a, b, c) CALL6(n, a, b, c, 0, 0, 0)

long syscall(long n, ...)
{
	long a[6];
	va_list list;

	va_start(list, n);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	return CALL6(n, a[0], a[1], a[2], a[3], a[4], a[5]);
}

void _exit(int status)
{
	for (;;)
		raw(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

ssize_t read(int fd, void *data, size_t size)
{
	return CALL3(SYS_read, fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
	return CALL3(SYS_write, fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
	return CALL4(SYS_pwrite64, fd, data, size, at);
}

int close(int fd)
{
	return (int)CALL3(SYS_close, fd, 0, 0);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list list;
	int mode;

	va_start(list, flags);
	mode = va_arg(list, int);
	va_end(list);
	return (int)CALL4(SYS_openat, dir, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list list;
	int mode;

	va_start(list, flags);
	mode = va_arg(list, int);
	va_end(list);
	return (int)CALL4(SYS_openat, AT_FDCWD, path, flags, mode);
}

int fcntl(int fd, int command, ...)
{
	va_list list;
	long argument;

	va_start(list, command);
	argument = va_arg(list, long);
	va_end(list);
	return (int)CALL3(SYS_fcntl, fd, command, argument);
}

int mkfifo(const char *path, mode_t mode)
{
	return (int)CALL4(SYS_mknodat, AT_FDCWD, path, S_IFIFO | mode, 0);
}

int fstat(int fd, struct stat *info)
{
	return (int)CALL3(SYS_fstat, fd, info, 0);
}

int pipe2(int fds[2], int flags)
{
	return (int)CALL3(SYS_pipe2, fds, flags, 0);
}

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	struct timespec limit = { timeout_ms / 1000, timeout_ms % 1000 * 1000000L };

	return (int)CALL5(SYS_ppoll, fds, count, timeout_ms < 0 ? NULL : &limit, NULL, 8);
}

int socket(int domain, int type, int protocol)
{
	return (int)CALL3(SYS_socket, domain, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	return (int)CALL3(SYS_connect, fd, address, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	return CALL3(SYS_sendmsg, fd, message, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
	       socklen_t address_size)
{
	return CALL6(SYS_sendto, fd, data, size, flags, address, address_size);
}

pid_t getpid(void)
{
	return (pid_t)CALL3(SYS_getpid, 0, 0, 0);
}

int kill(pid_t pid, int number)
{
	return (int)CALL3(SYS_kill, pid, number, 0);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	return (pid_t)CALL4(SYS_wait4, pid, status, options, NULL);
}

int execve(const char *path, char *const argv[], char *const envp[])
{
	return (int)CALL3(SYS_execve, path, argv, envp);
}

ssize_t getrandom(void *data, size_t size, unsigned int flags)
{
	return CALL3(SYS_getrandom, data, size, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	return (int)CALL3(SYS_clock_gettime, clock, now, 0);
}

/* Returns the error, unlike its neighbours. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *at, struct timespec *left)
{
	return (int)-raw(SYS_clock_nanosleep, clock, flags, (long)at, (long)left, 0, 0);
}

/* The kernel's signal set is 64 bits; the C library's type is larger. */
int sigemptyset(sigset_t *set)
{
	memset(set, 0, sizeof(*set));
	return 0;
}

int sigaddset(sigset_t *set, int number)
{
	set->__val[0] |= 1UL << (number - 1);
	return 0;
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	return (int)CALL4(SYS_rt_sigprocmask, how, set, old, 8);
}

int signalfd(int fd, const sigset_t *set, int flags)
{
	return (int)CALL4(SYS_signalfd4, fd, set, 8, flags);
}

/* Only for SIG_DFL, SIG_IGN and for reading: no handler is ever installed. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	struct {
		__sighandler_t handler;
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} wanted = { 0 }, before = { 0 };

	if (action)
		wanted.handler = action->sa_handler;
	if (CALL4(SYS_rt_sigaction, number, action ? &wanted : NULL, &before, 8) < 0)
		return -1;
	if (old)
		old->sa_handler = before.handler;
	return 0;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
	return (void *)CALL6(SYS_mmap, at, size, protection, flags, fd, offset);
}

int munmap(void *at, size_t size)
{
	return (int)CALL3(SYS_munmap, at, size, 0);
}

int mlockall(int flags)
{
	return (int)CALL3(SYS_mlockall, flags, 0, 0);
}

ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
	return CALL4(SYS_getxattr, path, name, value, size);
}

ssize_t fgetxattr(int fd, const char *name, void *value, size_t size)
{
	return CALL4(SYS_fgetxattr, fd, name, value, size);
}

ssize_t flistxattr(int fd, char *list, size_t size)
{
	return CALL3(SYS_flistxattr, fd, list, size);
}

int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
	return (int)CALL5(SYS_fsetxattr, fd, name, value, size, flags);
}

char *getenv(const char *name)
{
	size_t length = strlen(name);

	for (char **entry = environ; *entry; entry++)
		if (!strncmp(*entry, name, length) && (*entry)[length] == '=')
			return *entry + length + 1;
	return NULL;
}
