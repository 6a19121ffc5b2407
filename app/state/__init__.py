"""What processes that act as one share: revisions, keys' use, who is alive, what was noticed.

`store` says in six verbs what a store can do, and `memory`, `sqlite` and `redis` do it. Everything
else here is built on those verbs and knows no database. Nothing of this room is on the way of a
request but a key's lease that has run out; all else is exchanged a few times a second.
"""
