"""How a request that carries documents is read: found, searched, judged, and written anew.

Serves: numpy and small libraries only, no PyTorch. What is learned for it is trained in
`policies.training.context`. `policies.context` is the policy that puts the pieces together.
"""
