/* One connection, one direction, many bytes.
 *
 * Upload: the bytes, then an end of sending; the server answers with how many came (8 bytes,
 * most significant first). Download: the number wanted (8 bytes likewise); the server sends
 * that many, 0 1 2 ... 255 over and over, and closes.
 */
#include "link.h"
#include "workloads.h"

#include <endian.h>
#include <string.h>
#include <sys/socket.h>

enum { CHUNK = 1 << 18, PATTERN = 256, CHECKED_BYTES = 4 << 20 };

static unsigned char *pattern(void) {
    unsigned char *bytes = allocate(1, CHUNK + PATTERN);
    for (int i = 0; i < CHUNK + PATTERN; i++) bytes[i] = (unsigned char)i;
    return bytes;
}

static void upload(const struct settings *settings, size_t total) {
    struct link link;
    unsigned char *data = pattern();
    link_open(&link, settings->port, 0);
    for (size_t left = total; left > 0;) {
        size_t size = left < CHUNK ? left : CHUNK;
        link_send_all(&link, data, size);
        left -= size;
    }
    if (shutdown(link.fd, SHUT_WR) != 0) give_up_errno("shutdown");
    uint64_t answer;
    link_receive_all(&link, &answer, sizeof answer);
    if (be64toh(answer) != total) give_up("upload", "the server counted another number of bytes");
    link_close(&link);
}

static void download(const struct settings *settings, size_t total) {
    struct link link;
    unsigned char *expected = pattern(), *buffer = allocate(1, CHUNK);
    uint64_t request = htobe64(total);
    size_t received = 0;
    link_open(&link, settings->port, 0);
    link_send_all(&link, &request, sizeof request);
    for (;;) {
        ssize_t count = link_receive(&link, buffer, CHUNK);
        if (count == 0) break;
        if (count < 0) {
            link_wait(&link, WAIT_READABLE);
            continue;
        }
        if (memcmp(buffer, expected + received % PATTERN, (size_t)count) != 0)
            give_up("download", "other bytes came");
        received += (size_t)count;
    }
    if (received != total) give_up("download", "another number of bytes came");
    link_close(&link);
}

static void time_transfer(const struct settings *settings,
                          void (*transfer)(const struct settings *, size_t)) {
    transfer(settings, CHECKED_BYTES);
    struct reading before = take_reading(settings->pid);
    transfer(settings, settings->bytes);
    report(before, take_reading(settings->pid), (int64_t)(settings->bytes >> 20));
}

void run_upload(const struct settings *settings) { time_transfer(settings, upload); }

void run_download(const struct settings *settings) { time_transfer(settings, download); }
