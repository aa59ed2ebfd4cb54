"""What an analyst wants to know of CVE records.

Their vendor's and their weakness' history, and who cites them.

An example of declarations, for the shipped sample. Records of other sources count for nothing here.
"""

from transforms.features import (
    Count,
    CountDistinct,
    Derived,
    Entity,
    GroupBy,
    Last,
    Max,
    Mean,
    Service,
    Share,
    TopK,
    days,
    lifetime,
)

OF_SAMPLE = "source = 'cve_events'"
SCORE = "try_cast(attributes->>'cvss_score' as double)"

vendor = Entity(
    "vendor",
    key="case when subject_id not like 'n/a/%' then split_part(subject_id, '/', 1) end",
    description="Who makes what is vulnerable: the first part of `vendor/product`.",
)
weakness = Entity(
    "weakness",
    key="attributes->>'cwe'",
    description="The kind of mistake, by its number in the CWE.",
)
cited_cve = Entity(
    "cited_cve",
    key=(
        "list_filter(regexp_extract_all(upper(text), 'CVE-[0-9]{4}-[0-9]{4,}'), lambda id: id <> "
        "record_id)"
    ),
    many=True,
    description="A CVE id in another record's text.",
)

vendor_activity = GroupBy(
    "vendor_activity",
    vendor,
    [
        Count("n_records"),
        CountDistinct("subject_id", "n_products", description="Products in records"),
        Mean(SCORE, "mean_score", description="Mean CVSS score of records"),
        Share(
            "is_positive",
            "exploited_ratio",
            description="Share of records with a known exploit or proof of concept among those",
        ),
        Share(
            "(attributes->>'cwe') in ('CWE-79', 'CWE-89', 'CWE-78', 'CWE-94')", "injection_ratio"
        ),
        TopK("attributes->>'cwe'", "top_weaknesses", k=3),
        Last("attributes->>'cvss_severity'", "last_severity", windows=lifetime),
    ],
    [days(7), days(28), lifetime],
    where=OF_SAMPLE,
    description="What is published of a vendor's products.",
)

weakness_activity = GroupBy(
    "weakness_activity",
    weakness,
    [
        Count("n_records"),
        CountDistinct("split_part(subject_id, '/', 1)", "n_vendors"),
        Max(SCORE, "max_score"),
        Share(
            "is_positive",
            "exploited_ratio",
            description="Share of records with a known exploit or proof of concept among those",
        ),
    ],
    [days(28), lifetime],
    where=OF_SAMPLE,
    description="What is published of a kind of weakness.",
)

cve_citations = GroupBy(
    "cve_citations",
    cited_cve,
    [Count("n_citations"), CountDistinct("author_id", "n_citing_authors")],
    [lifetime],
    where=OF_SAMPLE,
    description="Records that cite a CVE, its own left out.",
)

vendor_burst = Derived(
    "vendor_burst",
    [vendor_activity],
    {"burst_ratio": "n_records_7d / nullif(n_records_28d / 4.0, 0)"},
    description="How busy a vendor's last week was.",
    descriptions={
        "burst_ratio": "Records of the last 7 days to an average week of the last 28 days."
    },
)

cve_v1 = Service(
    "cve_v1",
    [vendor_activity, weakness_activity, cve_citations, vendor_burst],
    description="What is known of a CVE's vendor, weakness and citations.",
)
