"""What runs in the pytest process."""
