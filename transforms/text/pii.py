r"""Which identifiers a text gives away, and the text without them: `RecordPii`.

E-mail addresses are frequent and recognisable by their shape alone, so Polars replaces them. The
other kinds are rare. A pattern in Polars (the gate) picks the few rows that may contain one; only
these are matched against the exact pattern, with its context, and against the check (Luhn, mod-97,
a public address). One scan for any gate comes first, since a scan of all texts for each gate took
four times as long. Every exact pattern is bounded, or consumes what it has read, so the time for a
text is proportional to its length.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.text.measured import beside_key, columns, of_frame

KINDS = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "IBAN_CODE",
    "CREDIT_CARD",
    "IP_ADDRESS",
    "US_SSN",
    "UK_NINO",
    "UK_NHS",
    "API_KEY",
)
"""Kinds, named as presidio's entities; it has none for keys. A placeholder is `<KIND>`."""

# a domain does not begin like the scale of `icon@2x.png`; there are no assertions, so that a second
# pass finds nothing new
EMAIL_ADDRESS = (
    r"[A-Za-z0-9._%+-]*[A-Za-z0-9_%+-]@"
    r"(?:[A-Za-z][A-Za-z0-9-]*|[0-9](?:[A-WYZa-wyz0-9-][A-Za-z0-9-]*)?)"
    r"(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
)

# ISO 13616 registry: how long the IBANs of a country are
IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN = "|".join(
    f"(?:{countries.replace(' ', '|')})[0-9]{{2}}(?:[ ]?[A-Z0-9]){{{length - 4}}}"
    for length, countries in IBAN_LENGTHS.items()
)

# issuers and lengths in use (ISO/IEC 7812); Visa no longer uses 13 digits, which would match
# article numbers
CARD = re.compile(
    r"4[0-9]{15}(?:[0-9]{3})?"
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}(?:[0-9]{3})?|62[0-9]{14,17}"
    r"|(?:50(?:18|20|38)|5893|6304|6759|676[1-3])[0-9]{8,15}",
    re.ASCII,
)

TOKENS = (
    r"(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"
    r"|glpat-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35}"
    r"|sk-(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{20,}"
)
ASSIGNED_NAME = (
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|private[_-]?key)(?:[_-]?key)?"
)
PHONE_WORD = (
    "(?:[Pp]hone|PHONE|[Tt]el|TEL|[Tt]ele(?:phone|fono?|foon)|[Tt]élé(?:phone)?|[Tt]eléfono"
    "|[Mm]obile?|MOBILE|[Cc]ell|[Ff]ax|FAX|[Ww]hats[Aa]pp|[Cc]all|[Dd]ial|[Tt]ext|SMS)"
)
# ITU-T E.164, as assigned
CALLING_CODE = (
    "(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    "|21[12368]|2[2346][0-9]|25[0-8]|29[01789]|35[0-9]|37[0-9]|38[0-35-79]"
    "|42[013]|50[0-9]|59[0-9]|67[02-9]|68[0-35-9]|69[0-2]"
    "|80[08]|85[02356]|88[01368]|96[0-8]|97[0-79]|99[2-68])"
)
PRIVATE_KEY = "[A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?"
EXTENSION = r"(?:[ ]?(?:x|ext\.?[ ]?)[0-9]{1,6})?"
# an area or an exchange of the North American numbering plan
NANP = "[2-9][0-9]{2}"
HEX = "[0-9A-Fa-f]{1,4}"
# no word or number goes on before or after; a placeholder counts as the identifier it replaced
NOT_AFTER_ONE = "".join(f"(?<!<{kind}>)" for kind in KINDS)
NOT_BEFORE_ONE = f"(?!<(?:{'|'.join(KINDS)})>)"
BEFORE = rf"(?<![0-9A-Za-z_.])(?<![0-9]-){NOT_AFTER_ONE}"
AFTER = rf"(?![0-9A-Za-z_])(?![.-][0-9]){NOT_BEFORE_ONE}"
# an address may have its calling code and the 0 of its area
PHONE_DIGITS = range(9, 17)
# least entropy of a secret in bits a character; a word of eight letters, some repeated, has about
# as much
SECRET_BITS = 2.75
# what precedes a number that is an address, and one that is a version
ADDRESS_BEFORE = re.compile(
    r"(?:(?:^|[^A-Za-z])"
    r"(?:ip|ipv4|addr|address|dns|nameserver|resolver|peer|subnet|ping|ssh)(?: is| was)?"
    r"[ :=(\[\"'`]{1,3}|://|@)$",
    re.ASCII | re.IGNORECASE,
)
ADDRESS_AFTER = re.compile(
    r":[0-9]{2,5}(?![0-9:.])|/(?:[89]|[12][0-9]|3[0-2])(?![0-9./])", re.ASCII
)
VERSION_BEFORE = re.compile(
    r"(?:versions?|v|ver|release[ds]?|before|prior to|through|until|up to|than|firmware|build"
    r"|fixed in|(?:firmware|upgraded?|updated?) to|[<>]=|< )[ .:=]{0,2}$",
    re.ASCII | re.IGNORECASE,
)


def redact(text: pl.Expr) -> pl.Expr:
    """Replace each identifier by a placeholder, e.g. `<EMAIL_ADDRESS>`; no other byte changes.

    Redacting again changes nothing. A null text stays null.

    >>> pl.select(redact(pl.lit("write to ann@example.org, SSN 123-45-6789"))).item()
    'write to <EMAIL_ADDRESS>, SSN <US_SSN>'
    """
    return text.map_batches(_redact, return_dtype=pl.String, is_elementwise=True)


def mask(texts: Sequence[str]) -> list[str]:
    """Redact texts before people see them.

    >>> mask(["call +44 20 7946 0958", "order 12345"])
    ['call <PHONE_NUMBER>', 'order 12345']
    """
    return _redact(pl.Series(texts, dtype=pl.String)).to_list() if texts else []


@of_frame
def score_pii(records: pl.DataFrame) -> pl.DataFrame:
    """Count the identifiers in each record's `text` by kind, as `RecordPii`.

    A null text gives nulls. Placeholders in the redacted text are counted, so a text that
    staging has redacted counts the same.

    >>> now = pl.lit(0).cast(pl.Datetime("us", "UTC"))
    >>> records = pl.LazyFrame({"record_id": ["a", "b"], "text": ["a@b.org", "<EMAIL_ADDRESS>"]})
    >>> scored = score_pii(records.with_columns(event_timestamp=now, created_timestamp=now))
    >>> scored.select("record_id", "pii_email_address_count", "pii_any").collect().rows()
    [('a', 1, 1), ('b', 1, 1)]
    """
    counts = _count_placeholders(_redact(records["text"]))
    names = [*(f"pii_{kind.lower()}_count" for kind in KINDS), "pii_any"]
    found = [*counts.T, counts.any(axis=1).astype(np.int64)]
    return beside_key(records, columns(dict(zip(names, found, strict=True))))


def _count_placeholders(redacted: pl.Series) -> npt.NDArray[np.int64]:
    # few texts have any
    rows = redacted.str.contains("<", literal=True).arg_true()
    counts = np.zeros((len(redacted), len(KINDS)), np.int64)
    if len(rows):
        counts[rows] = redacted.gather(rows).to_frame("text").select(_placeholders()).to_numpy()
    return counts


@cache
def _placeholders() -> list[pl.Expr]:
    text = pl.col("text")
    return [text.str.count_matches(f"<{kind}>", literal=True).alias(kind) for kind in KINDS]


class Rule(NamedTuple):
    """How one shape of a kind is found.

    `gate` picks rows in Polars, and may pick too many; a repetition in it needs no bound, which
    would only slow it down. The group `value` of `pattern` is replaced where `is_real` agrees.
    """

    kind: str
    gate: str
    pattern: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool]

    def redact(self, text: str) -> str:
        """Replace what is found in one text.

        >>> RULES[-1].redact("Tel: 020 7946 0958")
        'Tel: <PHONE_NUMBER>'
        """
        return self.pattern.sub(self._placeholder, text)

    def _placeholder(self, match: re.Match[str]) -> str:
        if not self.is_real(match):
            return match[0]
        start, end = (place - match.start() for place in match.span("value"))
        return f"{match[0][:start]}<{self.kind}>{match[0][end:]}"


def _redact(texts: pl.Series) -> pl.Series:
    """Redact e-mail addresses, then the rest; repeat for changed texts until nothing changes.

    The context that a rule reads may be an identifier that a later rule replaces.
    """
    before = texts.str.replace_all(EMAIL_ADDRESS, "<EMAIL_ADDRESS>")
    after = _apply_rules(before.clone())  # a scatter changes its series in place
    while len(changed := (before != after).arg_true()):
        before = after
        after = before.clone().scatter(changed, _apply_rules(before.gather(changed)))
    return after


def _apply_rules(texts: pl.Series) -> pl.Series:
    """Apply the rules in turn to the texts in which any gate finds something, in place."""
    rows = texts.str.contains(ANY_GATE).arg_true()
    if not len(rows):
        return texts
    found = texts.gather(rows)
    gates = _gates(found)
    for place, rule in enumerate(RULES):
        gated = np.flatnonzero(gates[:, place])
        if len(gated):
            before = found.gather(gated)
            after = pl.Series([rule.redact(text) for text in before], dtype=pl.String)
            changed = gated[(before != after).to_numpy()]
            found = found.scatter(gated, after)
            gates[changed] = _gates(found.gather(changed))
    return texts.scatter(rows, found)


def _gates(texts: pl.Series) -> npt.NDArray[np.bool_]:
    """Whether each rule's gate finds something in each text: a row for a text."""
    return texts.to_frame("text").select(_gate_expressions()).to_numpy(writable=True)


@cache
def _gate_expressions() -> list[pl.Expr]:
    text = pl.col("text")
    return [text.str.contains(rule.gate).alias(str(place)) for place, rule in enumerate(RULES)]


def _always(_: re.Match[str]) -> bool:
    return True


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[^0-9]", "", match["value"])


def _is_card(match: re.Match[str]) -> bool:
    """Whether issuer, length and check digit (Luhn, ISO/IEC 7812-1 annex B) are those of a card."""
    digits = _digits(match)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return CARD.fullmatch(digits) is not None and (doubled + sum(map(int, digits[::-2]))) % 10 == 0


def _is_iban(match: re.Match[str]) -> bool:
    """Whether the check digits, 02 to 98, are right: the number modulo 97 is 1 (ISO 7064)."""
    code = match["value"].replace(" ", "")
    return (
        code[2:4] not in {"00", "01", "99"}
        and int("".join(str(int(character, 36)) for character in code[4:] + code[:4])) % 97 == 1
    )


def _is_nhs_number(match: re.Match[str]) -> bool:
    """Whether the check digit is right: weights 10 to 1, modulo 11 (NHS data dictionary)."""
    return (
        sum(
            weight * int(digit)
            for weight, digit in zip(range(10, 0, -1), _digits(match), strict=True)
        )
        % 11
        == 0
    )


def _is_public_v4(match: re.Match[str]) -> bool:
    """Whether it is a public address and not a version.

    One of its numbers is 100 or more, or the text around it speaks of an address.
    """
    if not _is_public(match["value"]):
        return False
    before = match.string[max(0, match.start() - 24) : match.start()]
    if ADDRESS_BEFORE.search(before) or ADDRESS_AFTER.match(match.string, match.end()):
        return True
    return re.search("[0-9]{3}", match["value"]) is not None and not VERSION_BEFORE.search(before)


def _is_public_v6(match: re.Match[str]) -> bool:
    """Whether it is a public address, and no hardware address of eight pairs."""
    return _is_public(match["value"]) and {len(group) for group in match["value"].split(":")} != {2}


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


def _is_phone(match: re.Match[str]) -> bool:
    """Whether it has a number's digits, and is neither a day nor a decimal number."""
    value = match["value"]
    is_day = re.match(r"[(+]?[0-3]?[0-9]([ ./-])[0-3][0-9]\1(?:19|20)[0-9]{2}", value, re.ASCII)
    is_decimal = re.match(r"[+][0-9]{1,3}\.[0-9]{4,8}(?![0-9])", value, re.ASCII)
    return len(_digits(match)) in PHONE_DIGITS and not is_day and not is_decimal


def _is_secret(match: re.Match[str]) -> bool:
    """Whether a value looks random.

    It has a digit among letters of both cases, or several digits, and enough entropy (Shannon
    1948).
    """
    value = match["value"]
    shares = [count / len(value) for count in Counter(value).values()]
    classes = [
        re.search(characters, value) is not None
        for characters in ("[0-9]", "[a-z]", "[A-Z]|[0-9][^0-9]*[0-9]")
    ]
    return all(classes) and -sum(share * math.log2(share) for share in shares) >= SECRET_BITS


def _rule(
    kind: str, gate: str, pattern: str, is_real: Callable[[re.Match[str]], bool] = _always
) -> Rule:
    return Rule(kind, gate, re.compile(pattern, re.ASCII), is_real)


RULES = (
    _rule(
        "API_KEY",
        "PRIVATE KEY",
        rf"(?s)(?P<value>-----BEGIN {PRIVATE_KEY}-----.*?(?:-----END {PRIVATE_KEY}-----|\Z))",
    ),
    _rule(
        "API_KEY",
        r"AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|npm_|xox[abeoprs]-|[rs]k_live_|[rs]k_test_|AIza"
        r"|sk-[A-Za-z0-9]",
        rf"(?<![A-Za-z0-9_-]){NOT_AFTER_ONE}(?P<value>{TOKENS})(?![A-Za-z0-9])",
    ),
    _rule(
        "API_KEY",
        r"eyJ[A-Za-z0-9_-]{8}",
        rf"(?<![A-Za-z0-9_.-]){NOT_AFTER_ONE}"
        r"(?P<value>eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)",
    ),
    _rule("API_KEY", r"[Bb]earer ", r"\b[Bb]earer (?P<value>[A-Za-z0-9._~+/-]{20,}=*)", _is_secret),
    _rule(
        "API_KEY",
        r"(?i)(?:passw|passphrase|pwd|secret|token|[_-]?key)[a-z_]*[\"']? ?[:=]",
        rf"(?i:{ASSIGNED_NAME})[\"']?[ ]?[:=][ ]?[\"'`]?"
        r"(?P<value>[A-Za-z0-9+/=_.~!@#%^&*-]{8,})(?![(\[])",
        _is_secret,
    ),
    _rule(
        "IBAN_CODE",
        r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4} ?[A-Z0-9]{3}",
        rf"\b(?P<value>{IBAN})\b",
        _is_iban,
    ),
    _rule(
        "CREDIT_CARD",
        r"[2-6][0-9]{3}(?:[ -]?[0-9]{4}[ -]?[0-9]{4}|[ -][0-9]{6}[ -][0-9]{4})",
        rf"{BEFORE}(?P<value>[2-6][0-9]{{11,18}}"
        rf"|[2-6][0-9]{{3}}(?:([ -])[0-9]{{4}}){{3}}(?:\2[0-9]{{3}})?"
        rf"|3[0-9]{{3}}([ -])[0-9]{{6}}\3[0-9]{{4,5}}){AFTER}",
        _is_card,
    ),
    _rule(
        "IP_ADDRESS",
        r":[0-9A-Fa-f]{1,4}::|(?::[0-9A-Fa-f]{1,4}){6}:",
        rf"(?<![0-9A-Za-z:.]){NOT_AFTER_ONE}(?P<value>{HEX}(?::{HEX}){{7}}"
        rf"|[23][0-9A-Fa-f]{{3}}(?::{HEX}){{1,5}}::(?:{HEX}(?::{HEX}){{0,4}})?)"
        rf"(?![0-9A-Za-z:]|\.[0-9]){NOT_BEFORE_ONE}",
        _is_public_v6,
    ),
    _rule(
        "IP_ADDRESS",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        rf"(?<![0-9A-Za-z_.])(?<![A-Za-z_]-){NOT_AFTER_ONE}"
        r"(?P<value>[0-9]{1,3}(?:\.[0-9]{1,3}){3})"
        rf"(?![0-9A-Za-z_]|\.[0-9]|-[A-Za-z]){NOT_BEFORE_ONE}",
        _is_public_v4,
    ),
    _rule(
        "US_SSN",
        r"[0-9][ -][0-9]{2}[ -][0-9]{4}",
        rf"{BEFORE}"
        rf"(?P<value>(?!000|666|9)[0-9]{{3}}([ -])(?!00)[0-9]{{2}}\2(?!0000)[0-9]{{4}}){AFTER}",
    ),
    _rule(
        "US_SSN",
        r"SSN|[Ss]ocial [Ss]ecurity",
        r"\b(?:SSN|[Ss]ocial [Ss]ecurity)[A-Za-z :#.]{0,12}"
        r"(?<![0-9])(?P<value>(?!000|666|9)[0-9]{9})\b",
    ),
    _rule(
        "UK_NINO",
        r"[A-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
        r"\b(?P<value>(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
        r"[ ]?[0-9]{2}([ ]?)[0-9]{2}\2[0-9]{2}[ ]?[A-D])\b",
    ),
    _rule(
        "UK_NHS",
        "NHS",
        r"\bNHS[A-Za-z :#.]{0,16}(?P<value>[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4})\b",
        _is_nhs_number,
    ),
    _rule(
        "PHONE_NUMBER",
        r"\+[1-9]",
        rf"(?<![0-9A-Za-z_+.)]){NOT_AFTER_ONE}"
        rf"(?P<value>\(?\+{CALLING_CODE}\)?(?:[ ./()-]{{0,2}}[0-9]){{6,13}}{EXTENSION})"
        rf"{AFTER}(?!:[0-9])",
        _is_phone,
    ),
    _rule(
        "PHONE_NUMBER",
        r"[0-9][). -]{1,2}[2-9][0-9]{2}[ .-][0-9]{4}",
        rf"{BEFORE}(?<![+/-])(?P<value>(?:(?:1|001)[ .-]?)?"
        rf"(?:\({NANP}\)[ -]?{NANP}[ .-]|{NANP}([.-]){NANP}\2)[0-9]{{4}}{EXTENSION}"
        # a row of numbers is no phone number
        rf"|(?<![0-9] )(?:(?:1|001)[ ])?{NANP}[ ]{NANP}[ ][0-9]{{4}}(?![ ][0-9]))"
        rf"{AFTER}(?![:/][0-9])",
    ),
    _rule(
        "PHONE_NUMBER",
        r"(?:^|[^0-9A-Za-z_.+/:-])0[1-9][0-9]{0,4}[ )./-]{1,2}[0-9]{2}",
        # the pairs of a hexadecimal dump are no phone number
        rf"{BEFORE}(?<![+/:-])(?<![0-9] )(?<![ \n][0-9a-f]{{2}} )"
        r"(?P<value>\(?0[1-9][0-9]{0,4}\)?[ /)-]{1,2}[0-9]{2,8}"
        r"(?:[ -][0-9]{2,8}){0,3}(?![ ][0-9]+(?![0-9/:.-]))"
        r"|0[1-9]([ .])[0-9]{2}(?:\2[0-9]{2}){3}(?![ ][0-9a-f]{2}\b))"
        rf"{AFTER}(?![:/][0-9])",
        _is_phone,
    ),
    _rule(
        "PHONE_NUMBER",
        rf"{PHONE_WORD}[A-Za-z :#.(]*[0-9]",
        rf"\b{PHONE_WORD}[A-Za-z :#.]{{0,12}}(?<![A-Za-z0-9])"
        rf"(?P<value>\(?[0-9](?:[ ./()-]{{0,2}}[0-9]){{8,14}}){AFTER}(?![:/][0-9])",
        _is_phone,
    ),
)
# a text in which it finds nothing changes by no rule
ANY_GATE = "|".join(f"(?:{rule.gate})" for rule in RULES)
