"""The two processes of the soak: `server` is soaked, `clients` misbehave in every way."""

# What both sides have to know.
LONGEST_LINE = 65_536
TOO_LONG = b"too long\n"
DENIED = "127.0.255.0/24"
