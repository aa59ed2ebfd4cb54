"""The resident consumer: records as they happen are committed to raw, staged and served.

`intake` takes what is posted into raw, `follower` what a stream brings, `passes` run the stages of
the pipeline on it, `app` answers over HTTP. None of them has data logic: raw is
`transforms.sources`, the rest `flows.stages`.
"""
