"""Ranks that leave something behind, print much, warn, record, restart, or make their group in their own way."""

from __future__ import annotations

from .row import PROMPTLY, Row

LEAVING = (
    Row(
        file="leaves_a_child",
        outcome="passed",
        warnings=("ElasticWarning: rank 1 left process * (sleep 1000) behind; it was ended",),
    ),
    Row(
        file="leaves_a_process",
        outcome="passed",
        warnings=("ElasticWarning: rank 1 left process * (forgotten) behind; it was ended",),
    ),
    Row(
        file="leaves_a_thread",
        outcome="passed",
        warnings=("ElasticWarning: rank 1 left thread 'forgotten' behind; it was ended",),
    ),
    Row(
        file="prints_100_mb",
        outcome="failed",
        message="[rank 0] assert 0 == 1",
        sections=(("Captured stdout call (rank 0)", "the beginning\nxxx*... (* bytes left out) ...*xxx\nthe end\n"),),
        within=PROMPTLY,
    ),
    Row(
        file="prints_bytes",
        outcome="failed",
        message="[rank 0] assert 0 == 1",
        sections=(("Captured stdout call (rank 0)", "caf\ufffd \ufffd\0\n"),),
        within=PROMPTLY,
    ),
    Row(
        file="records_properties",
        outcome="passed",
        properties=(("model", "'small'"), ("loss[rank 0]", "0.5"), ("loss[rank 1]", "1.5")),
    ),
    Row(
        file="warns",
        outcome="passed",
        warnings=(
            "DeprecationWarning: [ranks 0-2] this is going away",
            "UserWarning: [rank 2] the last rank has little to do",
        ),
    ),
    Row(
        file="restarts_and_passes",
        outcome="passed",
        sections=(("Attempt 1 of 2 (rank 1 failed first)", "*AssertionError: attempt 0*"),),
    ),
    Row(
        file="restarts_and_fails",
        outcome="failed",
        message="[rank 1] ValueError: attempt 1",
        words=(
            "rank 1 of 2 failed first, after * s: ValueError: attempt 1 "
            "(rank 0 * in barrier at restarts_and_fails.py:14*)",
        ),
        sections=(("Attempt 1 of 2 (rank 1 failed first)", "*ValueError: attempt 0*"),),
        within=PROMPTLY,
    ),
    Row(file="makes_its_group_again", outcome="passed"),
    Row(file="makes_its_group_over_tcp", outcome="passed"),
)
