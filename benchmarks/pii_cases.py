"""Labelled cases for the redaction of identifiers: seeded ones from Faker, and what must stay.

Nothing here is anybody's: numbers are drawn. The sentences around them know nothing of the
patterns.
"""

import base64
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from faker import Faker

BARE = "digits alone, without a word"
LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL")
INSTANTS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f", "%a %b %d %H:%M:%S +0200 %Y")
COMPACT_INSTANTS = ("%Y%m%d", "%Y%m%d-%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S")
CARDS = ("visa16", "visa19", "mastercard", "amex", "discover", "diners")
# Faker draws these with prefixes that the issuers do not hold
OTHER_CARDS = {
    "jcb": (("3528", "3541", "3566", "3589"), 16),
    "maestro": (("5018", "5020", "5038", "5893", "6304", "6759", "6761"), 12),
}
BASE62 = string.ascii_letters + string.digits
# what stands around an identifier in prose, data and code
SURROUNDINGS = (
    "{}",
    "Please use {} from now on.",
    "It is {}, as I said yesterday",
    "Hello,\nsince 2024-03-01 it has been ({}).\nBest regards",
    '{{"id": 17, "value": "{}"}}',
    "name;{};2024",
    "| row 3 | {} |",
    "Old one was lost: {}; thanks!",
    "field={} other=12",
    "> {}\nI do not think so.",
    "Grüße, {} … bitte prüfen",
    "see '{}'.",
    "17,{},2024-03-01",
    "{} 12/27 and the rest later",
)
NUMBER_IS = (
    "Phone: {}",
    "You can call me on {} after 5 pm",
    "Tel. {}",
    "fax {}",
    "mobile {}, thanks",
)


class Case(NamedTuple):
    """A text and the position of an identifier in it; `sort` is the way in which it is written."""

    text: str
    kind: str
    sort: str
    start: int
    end: int


def labelled(n_each: int, seed: int = 7) -> list[Case]:
    """Make cases: for every way of writing every kind, `n_each` with an identifier."""
    draw = random.Random(seed)  # noqa: S311 - nothing is secret here
    cases = []
    for kind, sort, make, surroundings in makers(seed):
        for _ in range(n_each):
            value = make(draw)
            before, after = draw.choice(surroundings).format("\0").split("\0")
            is_bare = kind == "PHONE_NUMBER" and value.isdigit() and surroundings is SURROUNDINGS
            cases.append(
                Case(
                    before + value + after,
                    kind,
                    BARE if is_bare else sort,
                    len(before),
                    len(before) + len(value),
                )
            )
    return cases


Maker = tuple[str, str, Callable[[random.Random], str], tuple[str, ...]]


def makers(seed: int) -> Iterator[Maker]:
    """Give for every way of writing a kind its name, what draws one, and where it is put."""
    fakers = {locale: Faker(locale) for locale in LOCALES}
    for faker in fakers.values():
        faker.seed_instance(seed)
    us = fakers["en_US"]
    for locale, faker in fakers.items():
        yield "EMAIL_ADDRESS", locale, lambda _, faker=faker: faker.email(), SURROUNDINGS
        yield (
            "PHONE_NUMBER",
            f"{locale}, anywhere",
            lambda _, faker=faker: faker.phone_number(),
            SURROUNDINGS,
        )
        yield (
            "PHONE_NUMBER",
            f"{locale}, after a word",
            lambda _, faker=faker: faker.phone_number(),
            NUMBER_IS,
        )
        yield (
            "IBAN_CODE",
            locale,
            lambda draw, faker=faker: spaced(faker.iban(), draw),
            SURROUNDINGS,
        )
    for card in CARDS:
        yield (
            "CREDIT_CARD",
            card,
            lambda draw, card=card: grouped(us.credit_card_number(card), draw),
            SURROUNDINGS,
        )
    for card, (prefixes, length) in OTHER_CARDS.items():
        yield (
            "CREDIT_CARD",
            card,
            lambda draw, prefixes=prefixes, length=length: grouped(
                checked(draw, prefixes, length), draw
            ),
            SURROUNDINGS,
        )
    yield "IP_ADDRESS", "v4, public", lambda _: us.ipv4_public(), SURROUNDINGS
    yield "IP_ADDRESS", "v6, public", public_v6, SURROUNDINGS
    yield "US_SSN", "grouped", lambda _: us.ssn(), SURROUNDINGS
    yield (
        "US_SSN",
        "after SSN",
        lambda _: us.ssn().replace("-", ""),
        ("SSN {}", "my social security number {} is", "SSN: {}"),
    )
    yield "UK_NINO", "with or without blanks", nino, SURROUNDINGS
    yield (
        "UK_NHS",
        "after NHS",
        nhs_number,
        ("NHS number {}", "NHS no. {}, born 1980", "his NHS Number: {}"),
    )
    for sort, make in TOKENS.items():
        yield "API_KEY", sort, make, SURROUNDINGS
    yield (
        "API_KEY",
        "bearer",
        lambda draw: drawn(draw, 40),
        ("Authorization: Bearer {}", "curl -H 'Authorization: Bearer {}' -v"),
    )
    yield (
        "API_KEY",
        "assigned",
        lambda _: us.password(length=14, special_chars=False),
        (
            "password={}",
            'api_key: "{}"',
            "SECRET_KEY = '{}'\n",
            '{{"client_secret": "{}", "n": 1}}',
            "export DB_PASSWORD={}\n",
        ),
    )


def drawn(draw: random.Random, length: int, alphabet: str = BASE62) -> str:
    """Draw characters."""
    return "".join(draw.choices(alphabet, k=length))


def checked(draw: random.Random, prefixes: tuple[str, ...], length: int) -> str:
    """Draw a card's number of one of some prefixes whose check digit holds."""
    body = draw.choice(prefixes) + drawn(draw, length - 5, string.digits)
    return f"{body}{luhn_digit(body)}"


def spaced(iban: str, draw: random.Random) -> str:
    """Write an IBAN in groups of four, or in one."""
    return (
        " ".join(iban[start : start + 4] for start in range(0, len(iban), 4))
        if draw.random() < 0.5
        else iban
    )


def grouped(card: str, draw: random.Random) -> str:
    """Write a card's number as it is printed, with blanks or hyphens, or in one."""
    groups = {15: (4, 6, 5), 14: (4, 6, 4), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}.get(
        len(card), (len(card),)
    )
    ends = [sum(groups[: place + 1]) for place in range(len(groups))]
    return draw.choice(("", " ", "-")).join(
        card[end - length : end] for end, length in zip(ends, groups, strict=True)
    )


def public_v6(draw: random.Random) -> str:
    """Draw an address of the space in use, 2000::/3, in full or shortened."""
    groups = [
        f"2{draw.choice('46')}{draw.randrange(256):02x}",
        *(f"{draw.randrange(1, 65536):x}" for _ in range(7)),
    ]
    return ":".join(groups) if draw.random() < 0.5 else f"{':'.join(groups[:3])}::{groups[7]}"


def nino(draw: random.Random) -> str:
    """Draw a national insurance number of a prefix in use."""
    number = (
        f"{draw.choice('ABCEHJLMPRSW')}{draw.choice('ABCEHJLMPRSX')} "
        f"{drawn(draw, 2, string.digits)} {drawn(draw, 2, string.digits)}"
    )
    number = f"{number} {drawn(draw, 2, string.digits)} {draw.choice('ABCD')}"
    return number if draw.random() < 0.5 else number.replace(" ", "")


def nhs_number(draw: random.Random) -> str:
    """Draw a number whose check digit holds."""
    while True:
        digits = drawn(draw, 9, string.digits)
        check = -sum((10 - place) * int(digit) for place, digit in enumerate(digits)) % 11
        if check < 10:
            return draw.choice(("{} {} {}", "{}{}{}")).format(
                digits[:3], digits[3:6], digits[6:] + str(check)
            )


def jwt(draw: random.Random) -> str:
    """Draw a JSON web token."""
    parts = ('{"alg":"HS256","typ":"JWT"}', f'{{"sub":"{draw.randrange(10**9)}","iat":1516239022}}')
    return ".".join(
        [
            *(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts),
            drawn(draw, 43),
        ]
    )


def private_key(draw: random.Random) -> str:
    """Draw the block of a private key."""
    name = draw.choice(("RSA ", "EC ", "OPENSSH ", ""))
    body = "\n".join(drawn(draw, 64, BASE62 + "+/") for _ in range(5))
    return f"-----BEGIN {name}PRIVATE KEY-----\n{body}\n-----END {name}PRIVATE KEY-----"


TOKENS: dict[str, Callable[[random.Random], str]] = {
    "AWS": lambda draw: "AKIA" + drawn(draw, 16, string.ascii_uppercase + string.digits),
    "GitHub": lambda draw: "ghp_" + drawn(draw, 36),
    "GitHub, fine-grained": lambda draw: f"github_pat_{drawn(draw, 22)}_{drawn(draw, 59)}",
    "GitLab": lambda draw: "glpat-" + drawn(draw, 20),
    "Slack": lambda draw: f"xoxb-{drawn(draw, 12, string.digits)}-{drawn(draw, 24)}",
    "Stripe": lambda draw: "sk_live_" + drawn(draw, 24),
    "Google": lambda draw: "AIza" + drawn(draw, 35, BASE62 + "-_"),
    "OpenAI": lambda draw: draw.choice(("sk-", "sk-proj-")) + drawn(draw, 48),
    "JSON web token": jwt,
    "private key": private_key,
}


def negatives(n_each: int, seed: int = 7) -> list[tuple[str, str]]:
    """Make texts that must not change: `n_each` of every random sort, and all of the fixed ones."""
    draw = random.Random(seed)  # noqa: S311 - nothing is secret here
    made = [
        (sort, draw.choice(SURROUNDINGS).format(make(draw)))
        for sort, make in LOOKALIKES.items()
        for _ in range(n_each)
    ]
    return made + [("written out", text) for text in WRITTEN_OUT]


def digits(draw: random.Random, length: int) -> str:
    """Draw digits, of which the first is not 0."""
    return str(draw.randrange(10 ** (length - 1), 10**length))


def isbn(draw: random.Random) -> str:
    """Draw an ISBN-13 that checks, with hyphens or without."""
    body = "978" + digits(draw, 9)
    check = -sum((1, 3)[place % 2] * int(digit) for place, digit in enumerate(body)) % 10
    return draw.choice((f"{body}{check}", f"978-{body[3]}-{body[4:8]}-{body[8:12]}-{check}"))


def instant(draw: random.Random) -> datetime:
    """Draw an instant of this century."""
    return datetime.fromtimestamp(draw.randrange(1_000_000_000, 1_800_000_000), UTC)


LOOKALIKES: dict[str, Callable[[random.Random], str]] = {
    "version of three": lambda draw: (
        f"{draw.randrange(30)}.{draw.randrange(300)}.{draw.randrange(3000)}"
    ),
    "version of four, small": lambda draw: ".".join(str(draw.randrange(1, 100)) for _ in range(4)),
    "version of four, said to be one": lambda draw: draw.choice(
        ("v{}", "version {}", "before {}", "firmware {}")
    ).format(
        ".".join([*(str(draw.randrange(1, 40)) for _ in range(3)), str(draw.randrange(100, 256))])
    ),
    "build of a browser": lambda draw: (
        f"{draw.randrange(90, 130)}.0.{draw.randrange(4000, 7000)}.{draw.randrange(60, 200)}"
    ),
    "private address": lambda draw: draw.choice(
        ("10.{1}.{0}.{0}", "192.168.{0}.{1}", "172.16.{0}.{1}", "127.0.0.{0}", "169.254.{0}.{1}")
    ).format(draw.randrange(256), draw.randrange(256)),
    "private address, v6": lambda draw: draw.choice(
        ("fe80::{0}:{1}", "fd00:{0}:{1}::1", "::1", "fc00:1:2:3:4:5:{0}:{1}")
    ).format(drawn(draw, 4, "0123456789abcdef"), drawn(draw, 4, "0123456789abcdef")),
    "digest, hexadecimal": lambda draw: drawn(
        draw, draw.choice((7, 12, 32, 40, 64)), "0123456789abcdef"
    ),
    "digest, base64": lambda draw: base64.b64encode(draw.randbytes(32)).decode(),
    "fingerprint": lambda draw: ":".join(
        drawn(draw, 2, "0123456789abcdef") for _ in range(draw.choice((8, 16, 20)))
    ),
    "CVE id": lambda draw: f"CVE-{draw.randrange(1999, 2027)}-{draw.randrange(1000, 99999)}",
    "bare id of a CVE": lambda draw: f"{draw.randrange(2000, 2027)}-{draw.randrange(1000, 99999)}",
    "instant": lambda draw: f"{instant(draw):{draw.choice(INSTANTS)}}",
    "compact instant": lambda draw: f"{instant(draw):{draw.choice(COMPACT_INSTANTS)}}",
    "epoch": lambda draw: f"1{digits(draw, draw.choice((9, 12, 15, 18)))}",
    "day, day first": lambda draw: (
        f"{instant(draw):{draw.choice(('%d.%m.%Y', '%d/%m/%Y', '%d-%m-%Y', '%d-%m-%y'))}}"
    ),
    "day and time": lambda draw: (
        f"{instant(draw):{draw.choice(('%d-%m-%Y %H:%M', '%d.%m.%Y %H:%M:%S', '%m/%d/%Y %H%M'))}}"
    ),
    "order number": lambda draw: draw.choice(("#{}", "order {}", "INV-{}", "PROJ-{}")).format(
        digits(draw, draw.choice((6, 8, 10, 12)))
    ),
    "order number in groups": lambda draw: f"{digits(draw, 3)}-{digits(draw, 7)}-{digits(draw, 7)}",
    "zero-padded number": lambda draw: f"000{digits(draw, 7)}",
    "ISBN": isbn,
    "UUID": lambda draw: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
    "MAC": lambda draw: draw.choice(":-").join(
        drawn(draw, 2, "0123456789abcdef") for _ in range(6)
    ),
    "MAC of digits": lambda draw: draw.choice(":-").join(
        drawn(draw, 2, string.digits) for _ in range(6)
    ),
    "coordinates": lambda draw: (
        f"{draw.choice(('', '+', '-'))}{draw.uniform(1, 89):.6f}, "
        f"{draw.choice(('', '+', '-'))}{draw.uniform(1, 179):.6f}"
    ),
    "amount": lambda draw: draw.choice(("{},{},{}.00", "{}.{}.{},00", "{} {} {}")).format(
        *(digits(draw, 3) for _ in range(3))
    ),
    "hexadecimal dump": lambda draw: " ".join(
        drawn(draw, 2, "0123456789abcdef") for _ in range(16)
    ),
    "card whose check digit fails": lambda draw: (
        f"4{(number := drawn(draw, 14, string.digits))}{(luhn_digit('4' + number) + 1) % 10}"
    ),
    "IBAN whose check digits fail": lambda draw: f"DE00{drawn(draw, 18, string.digits)}",
    "number that no one has as SSN": lambda draw: (
        f"{draw.choice(('000', '666', '912'))}-{digits(draw, 2)}-{digits(draw, 4)}"
    ),
    "picture at a scale": lambda draw: f"icon{digits(draw, 2)}@{draw.choice('23')}x.png",
    "address in memory": lambda draw: f"0x{drawn(draw, 16, '0123456789abcdef')}",
}
WRITTEN_OUT = (
    "password: required",
    "password = getpass.getpass()",
    "token = request.headers['X-Token-2']",
    "api_key=os.environ['API_KEY_1']",
    "secret: ${{ secrets.GITHUB_TOKEN }}",
    "Set password=changeme before the first start",
    "Bearer authentication is the default, see the documentation",
    "Authorization: Bearer <token>",
    "the task-list-of-the-month and disk-usage-of-a-host",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "AKIA is how an access key starts",
    "std::vector<int>::iterator a::b; dead::beef",
    "@app.route('/x') and @2x, a@b, user@localhost",
    "git-svn-id: trunk@1817381 13f79535-47bb-0310-9956-ffa450edef68",
    "10 20 30 40 50 60 70 80 90 100",
    "ports 8080 8081 8082 8083 9000",
    "01 02 03 04 05 06 07 08",
    "call 12345 and text 678",
    "RFC 2606 and 192.0.2.1, 198.51.100.7, 203.0.113.9, 2001:db8::1",
    "netmask 255.255.255.0, 0.0.0.0 and 224.0.0.251",
    "300.400.500.600 and 1.2.3 and 1.2.3.4.105",
    "NHS number 9434765918",
    "AB 12 34 56 Z and QQ123456C and GB123456A",
    "@@ -10203040,7 +1020304,9 @@",
    "2^32-1 is (+4294967295) and 1e+1234567890",
    "GHSA-c3h9-896r-86jm, RHSA-2024:1234567, ISO 8601:2004-12-01",
)


def luhn_digit(body: str) -> int:
    """Give the digit that makes a number check (ISO/IEC 7812-1, annex B)."""
    return (
        -sum(
            int(digit) if place % 2 else sum(divmod(2 * int(digit), 10))
            for place, digit in enumerate(reversed(body))
        )
        % 10
    )


def found(text: str, redacted: str, kinds: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Find what was redacted: kind, start and end. All other bytes must be unchanged."""
    names = "|".join(kinds)
    pieces = re.split(f"<({names})>", redacted)
    kinds_found = pieces[1::2]
    pattern = "(.+?)".join(re.escape(piece) for piece in pieces[::2])
    match = re.fullmatch(pattern, text, re.DOTALL)
    if match is None:
        message = "text beside the identifiers was changed"
        raise ValueError(message)
    return [(kind, *match.span(number + 1)) for number, kind in enumerate(kinds_found)]
