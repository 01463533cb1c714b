"""Models that predict: ego-motion baselines and the reference OpenDriveVLA."""
