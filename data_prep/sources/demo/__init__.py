"""The embedded demo: a small invented web with labelled trouble, and chat sets of the same world. All of it is seeded."""
