#!/bin/sh
#SBATCH --job-name=pytest
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=00:30:00
# One pytest on each node; the first one prints, and all of them end with its exit code.
exec srun --kill-on-bad-exit=0 python -m pytest -p elastic --junitxml=report.xml "$@"
