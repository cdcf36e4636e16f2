"""Opening: from an address designator and options to a socket that is ready."""
