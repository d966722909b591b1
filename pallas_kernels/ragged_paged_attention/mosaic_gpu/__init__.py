"""Ragged paged attention for NVIDIA's Hopper generation, in Pallas's Mosaic GPU dialect."""
