#!/bin/sh
# The same command on each of two machines: torchrun.sh HOST-OF-THE-FIRST [arguments of pytest]
# PYTEST_ELASTIC_KEY must be the same secret on both, unless they share a home directory.
head=$1
shift
exec torchrun --nnodes=2 --nproc-per-node=1 \
    --rdzv-backend=c10d --rdzv-endpoint="$head:29400" --rdzv-id=pytest --max-restarts=1 \
    -m pytest -p elastic "$@"
