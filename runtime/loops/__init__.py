"""Who drives the step: the scheduler, searches, log-likelihoods, and callers."""
