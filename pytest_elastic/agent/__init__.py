"""What runs in an agent process (or, for ``agent="inline"``, beside the controller)."""
