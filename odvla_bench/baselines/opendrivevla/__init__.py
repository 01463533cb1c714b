"""The reference OpenDriveVLA (arXiv 2503.23463): model, processor, checkpoints, prediction."""
