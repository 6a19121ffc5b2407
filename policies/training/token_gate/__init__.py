"""Learning a token gate from two models, as R2R does (arXiv 2505.21600): `tandem train token-gate`.

Read in this order: `pipeline` (the whole way), `prompts` (what is asked), `endpoint` (one model
over HTTP), `journal` (why a broken run goes on), `collect` (the four stages that ask) with
`answers`, `traces`, `continuations` and `verdicts`, then `dataset`, `fit` and `threshold` (the
gate) and `curve` (its picture).

Only `fit` and `embedding` need torch, only `curve` matplotlib; both come with the `train` extra.
"""
