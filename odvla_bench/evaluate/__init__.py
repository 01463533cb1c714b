"""Predictions joined with a build, scored, and written down."""
