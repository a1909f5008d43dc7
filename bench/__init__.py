"""`make bench`: figures, measured where they are printed. What one compares stands side by side in one run."""
