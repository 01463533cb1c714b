"""A build: what it is made from, how it is written, how it is read."""
