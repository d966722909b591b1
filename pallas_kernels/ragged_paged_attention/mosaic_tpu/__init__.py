"""The TPU implementation: Mosaic kernels whose K/V pages travel by double-buffered asynchronous copies."""
