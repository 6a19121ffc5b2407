"""Verdicts: what tells a good answer from a bad one, for policies that hold whole drafts.

    grading.py   another model's word for it, in one token
    checks.py    what the draft shows by itself: log-probabilities, a schema
    votes.py     what several drafts agree on
    scoring.py   a served reward model's number
    drawing.py   several drafts of one request
    marking.py   any verdict as a mark for each of them
    calibrated.py, plan.py   what marks are worth, and what follows from that

Pure but for what is asked of models, which goes out as any other steps of a policy.
"""
