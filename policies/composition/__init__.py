"""Composition of experts: what the request routers share: prompt to features to judgement.

    embedder   a text as a vector of length 1

Serving code: it may import what the base install has, loads nothing before it is used, and knows
neither HTTP nor the gateway.
"""
