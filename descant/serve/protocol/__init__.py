"""What clients send and are sent: schemas, errors, limits. Plain data."""
