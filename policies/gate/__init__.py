"""The gate: the rule that runs inside an engine, and says at which token a model must be stopped.

One code for every engine that has it: the vLLM plugin (`policies.engine_gate`) on torch tensors and
the embedded pair's server (`deploy.pair.gate`) on numpy arrays. Start with `settings`, which holds
all that a request can ask of a gate, then read `rules`.

    settings      what a request asks, and its flat form in `vllm_xargs`
    rules         one decision per row and step: the model's own token, or the one that must come
    network       the learned gate's forward pass
    artifact      a learned gate as a folder of files
    trace         what an engine saw at each position, written down for training
    resources     what an engine's process gives to its gate: reserved token, folders
    arrays        the few places where numpy and torch differ
    estimate      entropy from top-k log-probabilities, for engines without a gate

It runs inside other people's servers: so it needs numpy-like arrays and safetensors, nothing of the
house, and torch only where the engine has handed it over.
"""
