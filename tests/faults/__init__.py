"""System calls that fail on demand.

A shim in C (``shim.c``) stands before the C library (``LD_PRELOAD``) and fails the
calls that a test program arms it for. Arming is from inside the program, at the exact
line, so programs run in a process of their own; the fixture `run_under_faults` starts
them. In a test file of any room::

    from tests.faults.injection import fault

    async def accept_under_shortage(times):     # runs under trio.run in its own process
        async with serve_passive(("127.0.0.1", 0), echo) as server:
            with fault("accept4", errno.EMFILE, nth=1, always=True) as failed:
                ...
                assert failed() > times
        return server.statistics().accepted     # anything that JSON can carry

    def test_accept_under_shortage(run_under_faults):
        outcome = run_under_faults(accept_under_shortage, 3)
        assert outcome.result == 1
        assert outcome.cpu_seconds < 2          # no spin

A process costs some 0.5 s to start: go through many faults in one program.
"""
