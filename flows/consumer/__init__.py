"""The resident consumer: posted records are committed to raw, acknowledged, staged and served.

`intake` takes what is posted into raw, `passes` run the stages of the pipeline on it, `app` answers
over HTTP. None of them has data logic: raw is `transforms.sources.posts`, the rest `flows.stages`.
"""
