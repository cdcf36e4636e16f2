"""Peers, networks and faults from outside: ``python tests/system/run.py`` runs all of them."""
