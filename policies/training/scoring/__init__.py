"""Scoring: what a way of routing is worth on rows of outcomes, beside what is easy to have.

Read `trails` (a ranking as a walk from the cheapest answers to the dearest), `pairs` and `hulls`
(the figures of the literature), `resampling` (how sure they are), `neighbours` (the k-NN baseline),
`contest` (all of them on the same rows) and `logged` (estimates from a log of decisions). Arrays
in, figures out: knows no file, no policy and no gateway.
"""
