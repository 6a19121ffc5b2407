"""Two models, one answer: what the token policies share.

    asked     what the client asks, and whether two models can write it at all
    stops     stop strings, also those that begin in one model's text and end in the other's
    page      the answer so far: token ids, text, and what is still held back
    turn      one model writes on until it is done or its gate fires
    answer    from the request to the answer's end: prompt, choices, who else if not these two
    watch     the gate's rule outside the engine, for backends that have no gate
    sheet     the answer so far as text, where the two share no tokenizer
    handoff   what a model is sent to go on with a text
    pen       one of two models that write one text in turns, and the call by which it writes

Policies say who writes next and why; everything that makes the result one ordinary OpenAI answer is
here. Like the policies themselves, nothing in this folder waits, and it knows `router.steps`,
`router.phrases`, `router.fleet` and `policies.gate` only.
"""
