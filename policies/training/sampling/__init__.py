"""Learning how many samples are worth their price: `tandem calibrate best-of`.

rows.py      prompts with what a small model's samples and a large model's answer are, in a file
orders.py    the rows in several orders of their samples: what serving would see, stage by stage
bins.py      where to cut a mark, so that its bins tell right from wrong
fit.py       from those to a calibration
cap.py       how often the verifier is wrong, and after how many samples that costs too much
trial.py     what a plan is worth on rows that it was not fitted on, beside what is easy to have
picture.py   the picture of it
"""
