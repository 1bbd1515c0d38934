"""What training needs before its first step, and what it measures."""
