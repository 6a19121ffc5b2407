"""The embedded pair: two tiny Llama-shaped models, the problems they know, and how they were made.

`problems`, `steps` and `stories` are pure Python and may be imported at run time; `tokenizer`,
`corpus`, `llama`, `train` and `evaluate` need torch and tokenizers and are for making the pair.
"""
