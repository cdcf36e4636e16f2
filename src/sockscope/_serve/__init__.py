"""Serving: accepting, one task a connection, and a clean end."""
