"""What a run of tests shares: a real etcd server, and network ports that nobody else gets."""
