"""Filtering: many partial answers of one model, of which those that look good go on.

    weights     from marks to weights, and which particles the next step begins with
    particle    one partial answer
    drawing     the calls by which all particles of a request grow by a step
    marking     what a grader or a reward model thinks of them so far

Particle filtering for answers (arXiv 2502.01618). What a step is, when to stop and what to do with
the result is the policy's business. Like the policies themselves, nothing in this folder waits.
"""
