#!/bin/sh
# Two replicas, here by TorchX's local scheduler: torchx.sh [arguments of pytest]
exec torchx run --scheduler local_cwd dist.ddp -j 2x1 -m pytest -- -p elastic "$@"
