"""What is computed by kernels of ours, or by chosen ones of torch, where shapes allow it."""
