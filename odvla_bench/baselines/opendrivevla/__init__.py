"""The reference OpenDriveVLA (arXiv 2503.23463)."""
