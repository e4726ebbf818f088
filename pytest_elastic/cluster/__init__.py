"""One test session over many pytest processes: on many machines, or in the ranks of a world that is there already."""
