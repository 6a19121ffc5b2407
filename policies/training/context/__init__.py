"""Training of what judges questions about documents (`policies.reading.artifact`).

Rows of questions with their tasks in, an artifact out. Needs the `train` extra; the gateway never
imports it.
"""
