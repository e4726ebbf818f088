"""The plugin against the floor at some sizes, and nothing else: ``python benchmarks/quick.py 4 8 --runs 10``."""

from __future__ import annotations

import argparse
import statistics

from contestant import ContestantError, floor, plugin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ranks", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--runs", type=int, default=10, help="rounds")
    parser.add_argument("--batch", type=int, default=5, help="tests in a turn")
    parser.add_argument("--isolation", nargs="*", default=["function"])
    options = parser.parse_args()
    for ranks in options.ranks:
        running = [floor(ranks), floor(ranks, destroy=True)]
        for isolation in options.isolation:
            try:
                running.append(plugin(ranks, tests=(options.runs + 1) * options.batch, isolation=isolation))
                running[-1].turn(options.batch)
            except ContestantError as error:
                print(error)
        times: dict[str, list[float]] = {each.name: [] for each in running}
        for _ in range(options.runs):
            for each in running:
                times[each.name].append(each.turn(options.batch) / options.batch)
        for each in running:
            each.close()
        base = times["the floor"]
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
            print(f"{ranks:3} ranks  {name:40} median {statistics.median(values) * 1000:7.1f} ms  "
                  f"least {min(values) * 1000:7.1f}  most {max(values) * 1000:7.1f}  ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
