"""Duplicate documents."""
