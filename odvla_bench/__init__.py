"""Data, metrics and a reference model for driving with language on nuScenes."""
