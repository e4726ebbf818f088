"""Pure code that turns what ranks and agents said into a verdict."""
