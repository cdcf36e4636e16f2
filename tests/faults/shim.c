/* Calls of the C library that fail on demand; see injection.py for the Python side.
 *
 *     cc -shared -fPIC -O2 -o shim.so shim.c -ldl
 *     LD_PRELOAD=./shim.so python program.py
 *
 * The prototypes are our own, since glibc's headers declare the socket calls with
 * transparent unions; every pointer is passed on as it came.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/types.h>

/* name, result, parameters, arguments, and the descriptor that the call is about */
#define CALLS(CALL)                                                                              \
    CALL(socket, int, (int family, int type, int proto), (family, type, proto), -1)              \
    CALL(socketpair, int, (int f, int t, int p, int *pair), (f, t, p, pair), -1)                 \
    CALL(bind, int, (int fd, const void *to, unsigned n), (fd, to, n), fd)                       \
    CALL(listen, int, (int fd, int backlog), (fd, backlog), fd)                                  \
    CALL(connect, int, (int fd, const void *to, unsigned n), (fd, to, n), fd)                    \
    CALL(accept4, int, (int fd, void *from, void *n, int flags), (fd, from, n, flags), fd)       \
    CALL(getsockname, int, (int fd, void *name, void *n), (fd, name, n), fd)                     \
    CALL(getpeername, int, (int fd, void *name, void *n), (fd, name, n), fd)                     \
    CALL(setsockopt, int, (int fd, int level, int option, const void *value, unsigned n),        \
         (fd, level, option, value, n), fd)                                                      \
    CALL(getsockopt, int, (int fd, int level, int option, void *value, void *n),                 \
         (fd, level, option, value, n), fd)                                                      \
    CALL(recv, ssize_t, (int fd, void *data, size_t n, int flags), (fd, data, n, flags), fd)     \
    CALL(send, ssize_t, (int fd, const void *data, size_t n, int flags),                         \
         (fd, data, n, flags), fd)                                                               \
    CALL(recvfrom, ssize_t, (int fd, void *data, size_t n, int flags, void *from, void *m),      \
         (fd, data, n, flags, from, m), fd)                                                      \
    CALL(sendto, ssize_t, (int fd, const void *data, size_t n, int flags, const void *to,        \
         unsigned m), (fd, data, n, flags, to, m), fd)                                           \
    CALL(recvmsg, ssize_t, (int fd, void *message, int flags), (fd, message, flags), fd)         \
    CALL(sendmsg, ssize_t, (int fd, const void *message, int flags), (fd, message, flags), fd)   \
    CALL(recvmmsg, int, (int fd, void *messages, unsigned n, int flags, void *timeout),          \
         (fd, messages, n, flags, timeout), fd)                                                  \
    CALL(sendmmsg, int, (int fd, void *messages, unsigned n, int flags),                         \
         (fd, messages, n, flags), fd)                                                           \
    CALL(sendfile, ssize_t, (int fd, int file, void *offset, size_t n), (fd, file, offset, n),   \
         fd)                                                                                     \
    CALL(shutdown, int, (int fd, int how), (fd, how), fd)                                        \
    CALL(epoll_create1, int, (int flags), (flags), -1)                                           \
    CALL(epoll_ctl, int, (int epoll, int op, int fd, void *event), (epoll, op, fd, event), fd)   \
    CALL(epoll_wait, int, (int epoll, void *events, int n, int timeout),                         \
         (epoll, events, n, timeout), epoll)

#define NUMBER(name, ...) NUMBER_##name,
#define ENTRY(name, ...) {.call = #name},

enum { CALLS(NUMBER) NUMBER_close, NUMBERS };

static struct fault {
    const char *call;
    int error;    /* 0: not armed */
    int nth;      /* the first call to fail, from 1 */
    int always;   /* and all that follow */
    int fd;       /* only calls about this descriptor; -1 for all */
    int calls;    /* since it was armed */
    int injected;
} faults[NUMBERS] = {CALLS(ENTRY){.call = "close"}};

/* Descriptors whose calls neither fail nor count. */
static unsigned char spared[1024];

static int hit(int number, int fd) {
    struct fault *fault = &faults[number];
    int error = __atomic_load_n(&fault->error, __ATOMIC_ACQUIRE);
    if (!error || (fault->fd >= 0 && fault->fd != fd)) return 0;
    if (fd >= 0 && fd < (int)sizeof spared && spared[fd]) return 0;
    int call = __atomic_add_fetch(&fault->calls, 1, __ATOMIC_SEQ_CST);
    if (call < fault->nth || (call > fault->nth && !fault->always)) return 0;
    __atomic_add_fetch(&fault->injected, 1, __ATOMIC_SEQ_CST);
    return error;
}

#define DEFINE(name, result, parameters, arguments, about)                                       \
    result name parameters {                                                                     \
        static result(*real) parameters;                                                         \
        int error = hit(NUMBER_##name, about);                                                   \
        if (error) {                                                                             \
            errno = error;                                                                       \
            return -1;                                                                           \
        }                                                                                        \
        if (!real) real = (result(*) parameters)dlsym(RTLD_NEXT, #name);                         \
        return real arguments;                                                                   \
    }

CALLS(DEFINE)

/* What CPython's os.sendfile calls: large files have a name of their own in glibc. */
ssize_t sendfile64(int fd, int file, void *offset, size_t n) {
    return sendfile(fd, file, offset, n);
}

/* As Linux does: the descriptor is gone whatever close reports. */
int close(int fd) {
    static int (*real)(int);
    int error = hit(NUMBER_close, fd);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    int result = real(fd);
    if (!error) return result;
    errno = error;
    return -1;
}

static struct fault *find(const char *call) {
    for (int number = 0; number < NUMBERS; number++)
        if (strcmp(faults[number].call, call) == 0) return &faults[number];
    return NULL;
}

/* Arm: the nth call from now on fails with error, and with always all that follow.
 * Disarm with error 0. The result is 0, or -1 for a call that is not known. */
int fault_set(const char *call, int error, int nth, int always, int fd) {
    struct fault *fault = find(call);
    if (!fault) return -1;
    __atomic_store_n(&fault->error, 0, __ATOMIC_RELEASE);
    fault->nth = nth;
    fault->always = always;
    fault->fd = fd;
    if (error) fault->calls = fault->injected = 0;
    __atomic_store_n(&fault->error, error, __ATOMIC_RELEASE);
    return 0;
}

/* From now on no call about this descriptor fails. */
void fault_spare(int fd) {
    if (fd >= 0 && fd < (int)sizeof spared) spared[fd] = 1;
}

/* How often a call has failed since it was armed last. */
int fault_count(const char *call) {
    struct fault *fault = find(call);
    return fault ? fault->injected : -1;
}
