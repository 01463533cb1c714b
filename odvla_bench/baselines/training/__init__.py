"""Training OpenDriveVLA: stages, packing, the loop."""
