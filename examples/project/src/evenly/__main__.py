"""``torchrun --nproc-per-node=4 -m evenly points.pt results``."""

import argparse

import torch.distributed as dist

from .training import train


def main(arguments=None):
    """Train in a process group of one's own."""
    parser = argparse.ArgumentParser(prog="evenly")
    parser.add_argument("data", help="a tensor of points, one a row")
    parser.add_argument("directory", help="where the checkpoint is")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args(arguments)
    dist.init_process_group("gloo")
    weight, bias = train(args.data, args.directory, args.steps)
    if dist.get_rank() == 0:
        print(f"y = {weight:.2f} x + {bias:.2f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
