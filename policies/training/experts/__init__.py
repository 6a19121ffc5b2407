"""Learning a composition of experts from outcome rows: `tandem train experts`.

Rows in (`policies.training.outcomes`), an artifact out (`policies.composition.artifact`).
`pipeline` is the whole way; `fit` makes the parts of the quality model, `blending` weighs them,
`kinds` finds and learns the categories, `maps` gives each category its expert under budgets. Needs
scikit-learn and SciPy; the artifact needs neither.
"""
