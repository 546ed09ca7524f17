// Calls of the file system under a timer: which of them fail, and with what.
//
// Usage: interrupted DIR HZ RESTART MILLISECONDS
//
// Calls each operation in DIR for MILLISECONDS under a timer of HZ ticks a second, whose handler has SA_RESTART when
// RESTART is 1. Says a line for each operation: `name calls failures errno`, with the errno of the last failure.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

// Aligned, for direct I/O.
static char buffer[65536] __attribute__((aligned(4096)));
static volatile sig_atomic_t ticks;
static int restarts;

static void tick(int signal) { (void)signal; ticks++; }

// A short count is a failure too; errno 0 tells it.
static int all(ssize_t done, size_t wanted) {
    if (done == (ssize_t)wanted) return 0;
    if (done >= 0) errno = 0;
    return -1;
}

static int failed(int fd) { int error = errno; close(fd); errno = error; return -1; }

static int op_stat(int i) { struct stat s; (void)i; return stat("file", &s); }
static int op_open(int i) { (void)i; int fd = open("file", O_RDWR); return fd < 0 ? -1 : close(fd); }
static int op_create(int i) {
    char name[32]; snprintf(name, sizeof name, "c%d", i % 64);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    return fd < 0 ? -1 : close(fd) ? -1 : unlink(name);
}
static int op_mkdir(int i) {
    char name[32]; snprintf(name, sizeof name, "d%d", i % 64);
    return mkdir(name, 0755) ? -1 : rmdir(name);
}
static int op_rename(int i) { return i % 2 ? rename("moved", "to move") : rename("to move", "moved"); }
static int op_replace(int i) {
    (void)i;
    int fd = open("new", O_WRONLY | O_CREAT, 0644);
    if (fd < 0) return -1;
    if (all(write(fd, "new", 3), 3)) return failed(fd);
    return close(fd) ? -1 : rename("new", "replaced");
}
static int op_link(int i) { (void)i; return link("file", "linked") ? -1 : unlink("linked"); }
static int op_symlink(int i) {
    (void)i;
    char target[64];
    return symlink("file", "symbolic") ? -1 : readlink("symbolic", target, sizeof target) < 0 ? -1 : unlink("symbolic");
}
static int op_truncate(int i) { return truncate("file", i % 2 ? 4096 : 65536); }
static int op_chmod(int i) { return chmod("file", i % 2 ? 0644 : 0664); }
static int op_times(int i) {
    struct timespec times[2] = {{i, 0}, {i, 0}};
    return utimensat(AT_FDCWD, "file", times, 0);
}
static int op_setxattr(int i) { return setxattr("file", "user.count", &i, sizeof i, 0); }
static int op_getxattr(int i) { (void)i; char value[64]; return getxattr("file", "user.count", value, sizeof value) < 0 ? -1 : 0; }
static int op_statfs(int i) { (void)i; struct statvfs s; return statvfs(".", &s); }
static int op_readdir(int i) {
    (void)i;
    DIR *directory = opendir(".");
    if (!directory) return -1;
    errno = 0;
    while (readdir(directory)) {}
    int error = errno;
    closedir(directory);
    errno = error;
    return error ? -1 : 0;
}
static int data(int flags, int i, int what) {
    int fd = open("data", O_RDWR | flags);
    if (fd < 0) return -1;
    off_t at = (off_t)(i % 64) * sizeof buffer;
    int outcome = 0;
    if (what & 1) outcome = all(pwrite(fd, buffer, sizeof buffer, at), sizeof buffer);
    if (!outcome && what & 2) outcome = fsync(fd);
    if (!outcome && what & 4) outcome = all(pread(fd, buffer, sizeof buffer, at), sizeof buffer);
    return outcome ? failed(fd) : close(fd);
}
static int op_write(int i) { return data(0, i, 1); }
static int op_fsync(int i) { return data(0, i, 3); }
static int op_sync_write(int i) { return data(O_SYNC, i, 1); }
static int op_read(int i) { return data(0, i, 4); }
static int op_direct(int i) { (void)i; return data(O_DIRECT, i, 5); }
static int op_append(int i) {
    int fd = open("appended", O_WRONLY | O_CREAT | O_APPEND | (i % 50 ? 0 : O_TRUNC), 0644);
    if (fd < 0) return -1;
    return all(write(fd, buffer, 5000), 5000) ? failed(fd) : close(fd);
}
static int op_fallocate(int i) {
    int fd = open("file", O_RDWR);
    if (fd < 0) return -1;
    return fallocate(fd, i % 2 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0, 0, 65536) ? failed(fd) : close(fd);
}
static int op_copy(int i) {
    (void)i;
    int from = open("data", O_RDONLY), to = open("copy", O_WRONLY | O_CREAT, 0644);
    if (from < 0 || to < 0) return -1;
    // A short copy is no failure, nor EINTR without SA_RESTART: ext4 gives them too.
    ssize_t done = copy_file_range(from, NULL, to, NULL, sizeof buffer, 0);
    if (done < 0 && errno == EINTR && !restarts) done = 1;
    if (done <= 0) { close(from); return failed(to); }
    close(from);
    return close(to);
}
static int op_map(int i) {
    int fd = open("data", O_RDWR);
    if (fd < 0) return -1;
    char *map = mmap(NULL, sizeof buffer, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return failed(fd);
    map[i % sizeof buffer] = (char)i;
    int outcome = i % 8 ? 0 : msync(map, sizeof buffer, MS_SYNC);
    munmap(map, sizeof buffer);
    return outcome ? failed(fd) : close(fd);
}
static int op_flock(int i) {
    (void)i;
    int fd = open("file", O_RDWR);
    if (fd < 0) return -1;
    return flock(fd, LOCK_EX) ? failed(fd) : close(fd);
}
static int op_lockf(int i) {
    (void)i;
    int fd = open("file", O_RDWR);
    if (fd < 0) return -1;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 100};
    return fcntl(fd, F_SETLK, &lock) ? failed(fd) : close(fd);
}

static const struct { const char *name; int (*call)(int); } OPERATIONS[] = {
    {"stat", op_stat}, {"open", op_open}, {"create", op_create}, {"mkdir", op_mkdir}, {"rename", op_rename},
    {"replace", op_replace}, {"link", op_link}, {"symlink", op_symlink}, {"truncate", op_truncate},
    {"chmod", op_chmod}, {"utimensat", op_times}, {"setxattr", op_setxattr}, {"getxattr", op_getxattr},
    {"statfs", op_statfs}, {"readdir", op_readdir}, {"write", op_write}, {"fsync", op_fsync},
    {"sync-write", op_sync_write}, {"read", op_read}, {"direct", op_direct}, {"append", op_append},
    {"fallocate", op_fallocate}, {"copy", op_copy}, {"mmap", op_map}, {"flock", op_flock}, {"fcntl-lock", op_lockf},
};

static void make(const char *name, size_t bytes) {
    int fd = open(name, O_RDWR | O_CREAT, 0644);
    for (size_t at = 0; at < bytes; at += sizeof buffer)
        if (fd < 0 || pwrite(fd, buffer, sizeof buffer, (off_t)at) != sizeof buffer) { perror(name); exit(1); }
    if (fd < 0 || close(fd)) { perror(name); exit(1); }
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

int main(int count, char **words) {
    if (count != 5 || chdir(words[1])) { fprintf(stderr, "usage: interrupted DIR HZ RESTART MILLISECONDS\n"); return 2; }
    int hz = atoi(words[2]);
    restarts = atoi(words[3]);
    int64_t time = atoll(words[4]);
    make("file", 65536);
    make("data", 64 * sizeof buffer);
    make("moved", 0);
    int first = 0;
    if (setxattr("file", "user.count", &first, sizeof first, 0)) { perror("setxattr"); return 1; }
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = tick;
    action.sa_flags = restarts ? SA_RESTART : 0;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 1000000 / hz}, {0, 1000000 / hz}};
    setitimer(ITIMER_REAL, &every, NULL);
    for (size_t at = 0; at < sizeof OPERATIONS / sizeof *OPERATIONS; at++) {
        int64_t end = now() + time;
        long calls = 0, failures = 0;
        int error = 0;
        // Renames go there and back, and must end where they began.
        while (now() < end || calls % 2) {
            if (OPERATIONS[at].call((int)(calls + 1))) { failures++; error = errno; }
            calls++;
        }
        printf("%s %ld %ld %d\n", OPERATIONS[at].name, calls, failures, error);
        fflush(stdout);
    }
    printf("ticks %ld 0 0\n", (long)ticks);
    return 0;
}
