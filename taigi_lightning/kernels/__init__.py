"""Elementwise operations, plain and in Triton."""
