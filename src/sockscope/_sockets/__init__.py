"""Sockets with an owner: streams, passive sockets, datagrams, and how they wait."""
