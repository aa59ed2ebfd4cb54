"""The report page: what a home holds and how it came about, as one HTML file that needs no network.

Belongs here: reading small frames, drawing them, the page around them. Does not: computing what no
table holds yet.
"""
