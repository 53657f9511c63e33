"""Scores of a document's quality, and the verdicts that thresholds on them give."""
