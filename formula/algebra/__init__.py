"""Numbers and coefficients: like terms collected, conditions, what a step needs."""
