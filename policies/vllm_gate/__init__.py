"""The gate inside vLLM: what is between vLLM's two interfaces and the rules of `policies.gate`.

    plugin       installed with the package: shows the gate the model's hidden states
    admission    refuses a request whose gate cannot work, before it is queued
    seats        where a request's row is, as vLLM's first interface moves it about
    gates        the requests that have a gate, and what each must write next
    forcing      makes a row of logits write the token that was decided

`policies.engine_gate` is the entry that vLLM loads. All of this runs in vLLM's processes, and none
of it in the gateway's; only `plugin` imports vLLM, and only when it is called.
"""
