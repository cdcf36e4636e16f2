"""TLS over any Trio stream: a thin driver over the standard library's `ssl.SSLObject`."""
