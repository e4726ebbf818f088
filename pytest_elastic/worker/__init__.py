"""What runs in the preloaded server and in the ranks forked from it."""
