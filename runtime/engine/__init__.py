"""The step: forwards, scores, sampling, and its recording as CUDA graphs."""
