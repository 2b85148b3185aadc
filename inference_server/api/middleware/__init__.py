"""What wraps every request: access log, admission, budgets for bodies."""
