"""Programs that are only type-checked, by ``nox -s types``: mypy --strict and pyright.

A line that must fail bears the ignore for its error. Both tools report an ignore that
is not needed, so a line that has begun to pass fails the check.
"""
