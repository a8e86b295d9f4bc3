"""Inputs that cannot be right, of both packages, and what is said of each."""
