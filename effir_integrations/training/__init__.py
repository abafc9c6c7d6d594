"""Trained compression: its data, its losses, its stages."""
