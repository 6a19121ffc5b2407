"""Outcomes: prompts with what several models' answers were worth, the rows that routers learn from.

`rows` holds them, `read` finds them in files of any known shape, `shapes` and `answers` score the
answers of files that hold no scores, `models` knows how large and how dear the models are, `costs`
what an answer cost, and `requests` turns a row into the request that a gateway would have seen.
Knows no policy and no metric.
"""
