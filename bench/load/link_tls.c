#include "common.h"
#include "link.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

static SSL_CTX *shared_context(void) {
    static SSL_CTX *context;
    if (context != NULL) return context;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL) give_up("SSL_CTX_new", "no context");
    /* Every handshake a full one; whom it speaks to is not what is measured. */
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return context;
}

static enum wait what_it_waits_for(struct link *link, int result, const char *step) {
    switch (SSL_get_error(link->session, result)) {
    case SSL_ERROR_WANT_READ: return WAIT_READABLE;
    case SSL_ERROR_WANT_WRITE: return WAIT_WRITABLE;
    default: give_up(step, ERR_error_string(ERR_get_error(), NULL));
    }
}

void link_secure(struct link *link) {
    SSL *session = SSL_new(shared_context());
    if (session == NULL || SSL_set_fd(session, link->fd) != 1) give_up("SSL_new", "no session");
    SSL_set_connect_state(session);
    link->session = session;
}

enum wait link_handshake(struct link *link) {
    int result = SSL_do_handshake(link->session);
    return result == 1 ? WAIT_NOTHING : what_it_waits_for(link, result, "handshake");
}

ssize_t link_receive(struct link *link, void *buffer, size_t size) {
    ERR_clear_error();
    int count = SSL_read(link->session, buffer, (int)size);
    if (count > 0) return count;
    if (SSL_get_error(link->session, count) == SSL_ERROR_ZERO_RETURN) return 0;
    what_it_waits_for(link, count, "receive");
    return -1;
}

ssize_t link_send(struct link *link, const void *data, size_t size) {
    ERR_clear_error();
    int count = SSL_write(link->session, data, (int)size);
    if (count > 0) return count;
    what_it_waits_for(link, count, "send");
    return -1;
}

void link_finish(struct link *link) {
    SSL_shutdown(link->session);
    SSL_free(link->session);
}
