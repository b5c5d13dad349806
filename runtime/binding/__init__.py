"""From a plan and its models to lanes and bound terms; every check that needs a checkpoint."""
