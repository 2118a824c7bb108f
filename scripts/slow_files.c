/* A slow network folder for measurements: each question about a path under SLOW_FILES_ROOT waits SLOW_FILES_US
 * microseconds before it goes to the system. Reads and writes of open files are not slowed.
 *
 *   cc -shared -fPIC -O1 -o slow_files.so slow_files.c -ldl
 *   SLOW_FILES_ROOT=/tmp/job SLOW_FILES_US=5000 LD_PRELOAD=./slow_files.so python ...
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void wait_for(const char *path) {
    static const char *root;
    static useconds_t delay;
    if (!root) {
        const char *delay_us = getenv("SLOW_FILES_US");
        delay = delay_us ? (useconds_t)atoi(delay_us) : 0;
        root = getenv("SLOW_FILES_ROOT") ? getenv("SLOW_FILES_ROOT") : "";
    }
    if (path && *root && strncmp(path, root, strlen(root)) == 0) usleep(delay);
}

#define SLOWED(type, name, params, path, args)                     \
    type name params {                                             \
        static type(*next) params;                                 \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);      \
        wait_for(path);                                            \
        return next args;                                          \
    }

SLOWED(int, stat, (const char *path, struct stat *found), path, (path, found))
SLOWED(int, lstat, (const char *path, struct stat *found), path, (path, found))
SLOWED(int, fstatat, (int at, const char *path, struct stat *found, int flags), path, (at, path, found, flags))
SLOWED(int, stat64, (const char *path, struct stat64 *found), path, (path, found))
SLOWED(int, lstat64, (const char *path, struct stat64 *found), path, (path, found))
SLOWED(int, fstatat64, (int at, const char *path, struct stat64 *found, int flags), path, (at, path, found, flags))
SLOWED(int, access, (const char *path, int mode), path, (path, mode))
SLOWED(int, unlink, (const char *path), path, (path))
SLOWED(int, rename, (const char *path, const char *to), path, (path, to))
SLOWED(int, mkdir, (const char *path, mode_t mode), path, (path, mode))
SLOWED(DIR *, opendir, (const char *path), path, (path))
SLOWED(FILE *, fopen, (const char *path, const char *mode), path, (path, mode))
SLOWED(FILE *, fopen64, (const char *path, const char *mode), path, (path, mode))

#define SLOWED_OPEN(name, params, path, args)                      \
    int name params {                                              \
        static int (*next) params;                                 \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);      \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                              \
        wait_for(path);                                            \
        return next args;                                          \
    }

SLOWED_OPEN(open, (const char *path, int flags, ...), path, (path, flags, mode))
SLOWED_OPEN(open64, (const char *path, int flags, ...), path, (path, flags, mode))
SLOWED_OPEN(openat, (int at, const char *path, int flags, ...), path, (at, path, flags, mode))
SLOWED_OPEN(openat64, (int at, const char *path, int flags, ...), path, (at, path, flags, mode))
