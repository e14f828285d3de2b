/* A library for LD_PRELOAD: the folder READ_ONLY_ROOT cannot be written while READ_ONLY_FLAG exists,
   as on a file system that the kernel has made read-only after an error of the disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int refuses(const char *path) {
  const char *root = getenv("READ_ONLY_ROOT"), *flag = getenv("READ_ONLY_FLAG");
  int kept = errno;
  int found = root && flag && !strncmp(path, root, strlen(root)) && !access(flag, F_OK);
  errno = found ? EROFS : kept;
  return found;
}

static int refuses_file(int file) {
  char link[64], path[4096] = {0};
  const char *flag = getenv("READ_ONLY_FLAG");
  int kept = errno;
  if (!flag || access(flag, F_OK)) {
    errno = kept;
    return 0;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  errno = kept;
  return readlink(link, path, sizeof path - 1) > 0 && refuses(path);
}

#define OPEN(name)                                                          \
  int name(const char *path, int flags, ...) {                              \
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);          \
    va_list rest;                                                           \
    va_start(rest, flags);                                                  \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;               \
    va_end(rest);                                                           \
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && refuses(path)) return -1; \
    return real(path, flags, mode);                                         \
  }
OPEN(open)
OPEN(open64)

#define WRITE(name, offset)                                                             \
  ssize_t name(int file, const void *bytes, size_t count, offset at) {                  \
    ssize_t (*real)(int, const void *, size_t, offset) = dlsym(RTLD_NEXT, #name);       \
    return refuses_file(file) ? -1 : real(file, bytes, count, at);                      \
  }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

ssize_t write(int file, const void *bytes, size_t count) {
  ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  return refuses_file(file) ? -1 : real(file, bytes, count);
}

int unlink(const char *path) {
  int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
  return refuses(path) ? -1 : real(path);
}

int rename(const char *from, const char *to) {
  int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
  return refuses(to) ? -1 : real(from, to);
}
