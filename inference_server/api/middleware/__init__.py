"""Access log, admission control, and byte budgets for request bodies."""
