"""What fits policies to a pair of models: training and thresholds, never imported by the gateway.

Each folder below makes one kind of artifact. Code here may be slow, may ask models thousands of
questions and may need the `train` extra; what it leaves behind is a folder of plain files that the
serving code reads.
"""
