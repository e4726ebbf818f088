"""Inner pytest sessions whose server has imported torch before it is asked for.

Nine tenths of a small session of this suite are the import of torch in its server. So each process of the suite keeps
one that has it imported (``zygote.py``). For an inner session that forks a process, which forks the server to be and
then *executes* pytest: the session is an ordinary one, and a child of the process that asked for it; its server is its
own child, as ever, and only need not import. ``boot.py``, in the session, hands that child what it would have
started the server with. A session that is told something that the import might depend on starts its server itself,
and so do those of tests marked ``own_server``.
"""
