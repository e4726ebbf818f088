"""Runs that span hosts: network namespaces of this machine stand for them."""
