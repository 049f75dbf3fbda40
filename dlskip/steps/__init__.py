"""What each training stage minimises."""
