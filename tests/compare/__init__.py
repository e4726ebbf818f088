"""The same failures under this plugin and under what else runs tests on many ranks: who tells them right."""
