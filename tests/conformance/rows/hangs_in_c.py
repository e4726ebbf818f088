"""Hangs in C code."""

import ctypes

import pytest


@pytest.mark.elastic(nproc=2)
def test_it(rank):
    if rank == 1:
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
