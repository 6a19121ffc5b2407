"""Verdicts: what tells a good answer from a bad one, for policies that hold whole drafts.

    grading.py   another model's word for it, in one token
    checks.py    what the draft shows by itself: log-probabilities, a schema
    votes.py     what several drafts agree on
    marking.py   any of these as a mark for each of several samples

Pure but for the one question that a grade is, which goes out as any other step of a policy.
"""
