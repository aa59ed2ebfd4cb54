"""Which identifiers a record's text gives away."""

from transforms.features import Field, RecordView
from transforms.text.pii import score_pii

PRESIDIO = "presidio entity"


class RecordPii(RecordView, complete=True):
    """Which identifiers a record's text gives away, counted by kind.

    All null once it is a tombstone.

    A placeholder such as `<EMAIL_ADDRESS>` counts as what it replaces, so a text that staging
    keeps redacted counts the same.
    """

    pii_email_address_count: int = Field.count(
        "E-mail addresses, by their shape.", f"{PRESIDIO} EMAIL_ADDRESS"
    )
    pii_phone_number_count: int = Field.count(
        "Phone numbers: with a calling code, in the forms of North America or with a leading 0 "
        "in groups, or after a word such as 'phone'.",
        f"{PRESIDIO} PHONE_NUMBER",
    )
    pii_iban_code_count: int = Field.count(
        "Bank accounts (IBAN) of the country's length whose check digits are valid (mod 97).",
        "ISO 13616",
    )
    pii_credit_card_count: int = Field.count(
        "Payment cards: issuer, length and check digit (Luhn) are valid.", "ISO/IEC 7812"
    )
    pii_ip_address_count: int = Field.count(
        "Public IP addresses, v4 and v6; a private one does not count, nor does a v4 one that "
        "reads as a version.",
        f"{PRESIDIO} IP_ADDRESS",
    )
    pii_us_ssn_count: int = Field.count(
        "US social security numbers in groups, or after 'SSN'.", f"{PRESIDIO} US_SSN"
    )
    pii_uk_nino_count: int = Field.count("UK national insurance numbers.", f"{PRESIDIO} UK_NINO")
    pii_uk_nhs_count: int = Field.count(
        "UK NHS numbers after 'NHS' whose check digit is valid (mod 11).", f"{PRESIDIO} UK_NHS"
    )
    pii_api_key_count: int = Field.count(
        "Keys and secrets: tokens of known shape, private key blocks, bearer tokens, assigned "
        "passwords that look drawn at random."
    )
    pii_any: int = Field.number("1 if there is any, else 0.", ge=0, le=1)

    compute = staticmethod(score_pii)
