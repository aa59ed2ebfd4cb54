"""The report page: the data in a home and its history, as one HTML file that needs no network.

Belongs here: reading small frames, drawing them, the page around them. Does not: computing what no
table holds yet.
"""
