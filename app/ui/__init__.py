"""The pages at `/ui`, on the operators' listener: for those without Grafana.

    sources      what the pages are told, and by whom: the one place that several processes would
                 have to be joined at
    recent       the last decisions, kept by a listener
    history      samples of the metrics over time
    figures      what an operator wants to know, from those samples
    charts       lines and areas, as SVG paths
    words        numbers and times as people read them
    entry        who looks: a token becomes a cookie, and forms prove that they are ours
    paper        templates, static files, and the headers that every page has
    looking      the pages that only show
    forms        a policy's settings as fields, and fields as a block again
    changing     the pages that change something
    playground   a chat, asked of the gateway in this process

The pages are complete without their script, but for the playground; it refreshes them and colours
the chat. Nothing comes from another host, and nothing here is on the way of a client's request,
but for `recent`, which keeps a few words of each.
"""
