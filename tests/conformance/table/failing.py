"""Ranks that raise: in the test, in a fixture, in a subtest, at import."""

from __future__ import annotations

from .row import GRACE, PROMPTLY, Row

FAILING = (
    Row(
        file="fails_an_assert",
        outcome="failed",
        message="[rank 1] assert [0.5, 0.25] == [0.5, 0.125]",
        words=(
            "rank 1 of 2 failed first, after * s: assert [0.5, 0.25] == [0.5, 0.125]* (rank 0 *)",
            "    def test_it(rank, failing_now):",
            ">           assert loss == [0.5, 0.125]",
            "E             At index 1 diff: 0.25 != 0.125",
            "fails_an_assert.py:11: AssertionError",
        ),
        unsaid=("collateral",),
        within=PROMPTLY,
    ),
    Row(
        file="raises",
        outcome="failed",
        message="[rank 1] ValueError: the loss of rank 1 is not a number",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: the loss of rank 1 is not a number (rank 0 *)",
            ">           step(rank)",
            '>       raise ValueError(f"the loss of rank {rank} is not a number")',
            "E       ValueError: the loss of rank 1 is not a number",
            "raises.py:7: ValueError",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="fails_while_others_wait",
        outcome="failed",
        message="[rank 2] assert 2.0 < 2",
        words=(
            "rank 2 of 4 failed first, after * s: assert 2.0 < 2* "
            "(rank* in all_reduce at fails_while_others_wait.py:15*)",
            ">           assert loss.item() < 2",
            "E           assert 2.0 < 2",
            "fails_while_others_wait.py:14: AssertionError",
        ),
        unsaid=("failed too",),
        within=PROMPTLY,
    ),
    Row(
        file="two_fail_alike",
        outcome="failed",
        message="[rank *] AssertionError: only rank 0 is right*",
        words=("rank * of 3 failed first, after * s: AssertionError: only rank 0 is right* (*rank * failed alike*)",),
        unsaid=("failed too",),
        within=PROMPTLY,
    ),
    Row(
        file="two_fail_unlike",
        outcome="failed",
        message="[rank 1] ValueError: the first",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: the first "
            "(rank 0 failed too in call: KeyError: 'the second')",
            "E           ValueError: the first",
            "*rank 0: failed too in call: KeyError: 'the second'*",
            "E       KeyError: 'the second'",
        ),
        unsaid=("collateral",),
        within=PROMPTLY,
    ),
    Row(
        file="interrupts",
        outcome="failed",
        message="[rank 1] KeyboardInterrupt",
        words=("rank 1 of 2 failed first, after * s: KeyboardInterrupt (rank 0 * in barrier at interrupts.py:12*)",),
        within=PROMPTLY,
    ),
    Row(
        file="raises_what_does_not_pickle",
        outcome="failed",
        message="[rank 1] raises_what_does_not_pickle.LostError: the socket is gone",
        words=(
            "rank 1 of 2 failed first, *LostError: the socket is gone (rank 0 *)",
            "E           raises_what_does_not_pickle.LostError: the socket is gone",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="raises_what_does_not_unpickle",
        outcome="failed",
        message="[rank 1] raises_what_does_not_unpickle.OneWayError: this and that",
        words=(
            "rank 1 of 2 failed first, *OneWayError: this and that (rank 0 *)",
            "E           raises_what_does_not_unpickle.OneWayError: this and that",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="raises_what_cannot_be_told",
        outcome="failed",
        message="[rank 1] raises_what_cannot_be_told.MuteError: <exception str() failed>",
        words=(
            "rank 1 of 2 failed first, *MuteError: <exception str() failed> (rank 0 *)",
            ">           raise MuteError",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="fails_in_setup",
        outcome="failed",
        when="setup",
        message="[rank 1] ValueError: no weights",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: no weights "
            "(rank 0 * in barrier at fails_in_setup.py:12*)",
            "    def model(rank, failing_now):",
            "E           ValueError: no weights",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="fails_in_teardown",
        outcome="failed",
        when="teardown",
        message="[rank 1] ValueError: still in use",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: still in use (rank 0 *)",
            "E           ValueError: still in use",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="fails_when_imported",
        outcome="collect",
        words=("fails_when_imported.py:3: in <module>", "E   ModuleNotFoundError: No module named 'no_such_module'"),
    ),
    Row(
        file="fails_when_ranks_import_it",
        outcome="failed",
        when="setup",
        message="[rank *] CollectionError: collecting fails_when_ranks_import_it.py in the ranks' session failed*",
        words=(
            "rank * of 2 failed first, after * s: CollectionError: * (rank *)",
            "fails_when_ranks_import_it.py:8: in <module>",
            "E   ModuleNotFoundError: No module named 'no_such_module'",
        ),
        unsaid=("failed too",),
    ),
    Row(
        file="fails_in_a_subtest",
        needs="Subtests",
        outcome="failed",
        message="[rank 1] assert (1, 1) != (1, 1)",
        words=(
            "rank 1 of 2 failed first, after * s: assert (1, 1) != (1, 1)* (rank 0 *)",
            "E               assert (1, 1) != (1, 1)",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="fails_in_a_unittest_subtest",
        test="test_it",
        outcome="failed",
        message="[rank 1] AssertionError: ('1', 1) == ('1', 1)",
        words=("rank 1 of 2 failed first, after * s: AssertionError: ('1', 1) == ('1', 1) (rank 0 *)",),
    ),
    Row(file="skips_a_subtest", needs="Subtests", outcome="passed"),
    Row(
        file="fails_on_one_of_two_nodes",
        outcome="failed",
        message="[rank 1] ValueError: on node 1",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: on node 1 "
            "(rank 0 blocked in wait at fails_on_one_of_two_nodes.py:15, killed)",
        ),
        within=GRACE + PROMPTLY,
    ),
    Row(
        file="others_tear_down",
        outcome="failed",
        message="[rank 1] ValueError: on rank 1",
        words=(
            "rank 1 of 3 failed first, after * s: ValueError: on rank 1 "
            "(ranks 0,2 blocked in wait at others_tear_down.py:21, killed)",
        ),
        sections=tuple(
            (f"Captured stdout teardown (rank {rank})", f"rank {rank} has closed its connection\n") for rank in range(3)
        ),
        within=PROMPTLY,
    ),
    Row(
        file="others_hang_in_teardown",
        outcome="failed",
        message="[rank 1] ValueError: on rank 1",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: on rank 1 "
            "(rank 0 blocked in wait at others_hang_in_teardown.py:*, killed)",
        ),
        within=GRACE + PROMPTLY,
    ),
    Row(
        file="ignores_sigterm",
        outcome="failed",
        message="[rank 0] ValueError: on rank 0",
        words=(
            "rank 0 of 2 failed first, after * s: ValueError: on rank 0 "
            "(rank 1 blocked in wait at ignores_sigterm.py:18, killed)",
        ),
        within=GRACE + PROMPTLY,
    ),
)
