"""Each kind of personal data: what it is found in, what it must not be taken for, and texts made to make its pattern slow."""

import ipaddress
import random
import string
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pii import KINDS, Kind, find, scrub

DRAW = random.Random(0)


def drawn(characters: str, number: int) -> str:
    """A value that is issued to nobody; written out here, it would set off every scanner for secrets."""
    return "".join(DRAW.choice(characters) for _ in range(number))


WORD = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Write to joe.doe+news@mail.example.co.uk.", "Write to [EMAIL]."),
        ("<jürgen@müller.de>, 'ann_o'neil@x.org'", "<[EMAIL]>, '[EMAIL]'"),
        ("联系abc@qq.com谢谢", "联系[EMAIL]谢谢"),
        ("email=foo@bar.com&x=1 mailto:a@b.io", "email=[EMAIL]&x=1 mailto:[EMAIL]"),
        ("a@b.com,c@d.com;E@F.NET", "[EMAIL],[EMAIL];[EMAIL]"),
        ("presse(at)wind-energie.de, joe [at] x [dot] org, ann[[at]]x.org", "[EMAIL], [EMAIL], [EMAIL]"),
        # addresses of the Internet
        ("from 93.184.216.34:8080, 93.184.216.34.", "from [IP]:8080, [IP]."),
        ("http://[2606:2800:220:1:248:1893:25c8:1946]/ and 2606:2800::1.", "http://[[IP]]/ and [IP]."),
        ("::ffff:93.184.216.34", "::ffff:[IP]"),
        ("user@93.184.216.34", "user@[IP]"),
        ("DNS is 8.8.8.8", "DNS is [IP]"),
        ("allow 198.35.26.96/28 10.0.0.0/8", "allow [IP]/28 10.0.0.0/8"),
        # names and passwords in URLs
        ("git clone https://joe:hunter2@git.example.org/x.git", "git clone https://[CREDENTIALS]@git.example.org/x.git"),
        ("postgres://app:p%40ss@10.0.0.5:5432/db", "postgres://[CREDENTIALS]@10.0.0.5:5432/db"),
        # telephone numbers
        ("+49 (0)40-30030-1000, 001-541-754-3010", "[PHONE], [PHONE]"),
        ("Tel.: (030) 78 95 47 78, Fax 030/78954779", "Tel.: [PHONE], Fax [PHONE]"),
        ("Call (831) 899-3938 x123 or 1-800-858-8437!", "Call [PHONE] or [PHONE]!"),
        ("tél. 04.66.93.80.04", "tél. [PHONE]"),
        ("звоните нам: (383) 258-29-73", "звоните нам: [PHONE]"),
        ("电话：010-65363263 传真 021 6536 3263", "电话：[PHONE] 传真 [PHONE]"),
        ("You can call 33 93 31", "You can call [PHONE]"),
        ("02.27.96.63.08 office\n(764)722-5949 mobile", "[PHONE] office\n[PHONE] mobile"),
        ("tel:+12125550123", "tel:[PHONE]"),
        ("Ask Dr. Weber (089/99529727)", "Ask Dr. Weber ([PHONE])"),
        ("Phone +81.90.1459.5878", "Phone [PHONE]"),
        ("P: (212)727.7715 – F: (212)727.7712", "P: [PHONE] – F: [PHONE]"),
        # cards and accounts
        ("card 4111 1111 1111 1111 12/27", "card [CREDIT_CARD] 12/27"),
        ("5105105105105100, 3782-822463-10005, 6011 1111 1111 1117", "[CREDIT_CARD], [CREDIT_CARD], [CREDIT_CARD]"),
        ("Maestro 6759649826438453, Diners card 30569309025904", "Maestro [CREDIT_CARD], Diners card [CREDIT_CARD]"),
        ("IBAN DE89 3704 0044 0532 0130 00, BIC COBADEFF", "IBAN [IBAN], BIC COBADEFF"),
        ("gb82west12345698765432 FR1420041010050500013M02606", "[IBAN] [IBAN]"),
        ("CH93-0076-2011-6238-5295-7;NO9386011117947", "[IBAN];[IBAN]"),
        # numbers of the state
        ("SSN: 536-90-4399; my ssn is 536904399", "SSN: [SSN]; my ssn is [SSN]"),
        ("social security number 536 90 4399", "social security number [SSN]"),
        ("DNI 12345678Z, NIE X-2482300W", "DNI [NATIONAL_ID], NIE [NATIONAL_ID]"),
        ("nata RSSMRA85T10A562S il", "nata [NATIONAL_ID] il"),
        ("NIR 2 95 10 99 126 111 93", "NIR [NATIONAL_ID]"),
        ("Steuer-ID 36 574 261 809", "Steuer-ID [NATIONAL_ID]"),
        ("BSN: 111222333, PESEL 44051401359", "BSN: [NATIONAL_ID], PESEL [NATIONAL_ID]"),
        ("personnummer 880320-0016; hetu 131052-308T, 131052A308T", "personnummer [NATIONAL_ID]; hetu [NATIONAL_ID], [NATIONAL_ID]"),
        ("CPF 390.533.447-05, RUT 12.531.909-2", "CPF [NATIONAL_ID], RUT [NATIONAL_ID]"),
        ("AHV 756.9217.0769.85; rijksregister 85.07.30-033.28", "AHV [NATIONAL_ID]; rijksregister [NATIONAL_ID]"),
        ("身份证 360426199101010071", "身份证 [NATIONAL_ID]"),
        ("Aadhaar 2341 2341 2346, PAN: ACUPA7085R", "Aadhaar [NATIONAL_ID], PAN: [NATIONAL_ID]"),
        ("CURP BOXW310820HNERXN09, NHS 943 476 5870, SIN: 123-456-782", "CURP [NATIONAL_ID], NHS [NATIONAL_ID], SIN: [NATIONAL_ID]"),
        ("fødselsnummer 151086 95088", "fødselsnummer [NATIONAL_ID]"),
        # street addresses
        ("at 667 Madison Avenue, near", "at [ADDRESS], near"),
        ("5899 Venice Blvd.\nLos Angeles, CA 90019\nP:", "[ADDRESS]\nP:"),
        ("6903 Rockledge Drive, Suite 1250\n    Bethesda, MD 20817\n", "[ADDRESS]\n"),
        ("write to 51 Franklin St, Fifth Floor, Boston, MA 02110-1301, USA", "write to [ADDRESS], USA"),
        ("3417 Massachusetts, NW\nWashington, DC 20007", "[ADDRESS]"),
        ("P.O. Box 20734\n\nFerndale, MI 48220", "[ADDRESS]"),
        ("PSC 4926, Box 7979\nAPO AA 63682", "[ADDRESS]"),
        ("20-22 Bedford Row, London, UK WC1R 4JS", "[ADDRESS]"),
        ("Flat 3, 221b Baker Street, London NW1 6XE", "[ADDRESS]"),
        ("Market St, Oxford OX1 3DZ, England", "Market St, Oxford [ADDRESS], England"),
        ("Linienstraße 13\n10187 Berlin\nTel", "[ADDRESS]\nTel"),
        ("Weißenburgstr. 4, Obere Bahnhofstraße 33, Alter Markt 5, 24103 Kiel", "[ADDRESS], Obere [ADDRESS], [ADDRESS]"),
        ("Paul-Nevermann-Platz 47 und Am Straberger See 2, 41542 Dormagen", "[ADDRESS] und [ADDRESS]"),
        ("12 rue de Rivoli, 75001 Paris; Via Dante 8, 20900 Monza", "[ADDRESS]; [ADDRESS]"),
        ("Rua Pindorama, 843\nCalle de Alcalá 14; ul. Lubartowska 42", "[ADDRESS]\n[ADDRESS]; [ADDRESS]"),
        ("Skovvej 1\n7100 Vejle\nAtt", "[ADDRESS]\nAtt"),
        ("My ZIP code is 96857", "My ZIP code is [ADDRESS]"),
        ("She lives at 36 Purje 57, Ridalepa", "She lives at [ADDRESS], Ridalepa"),
        (">12 Kooli 11\n>Apt. 626\n>Ridalepa\n>Mali 44998", ">[ADDRESS]"),
    ],
)  # fmt: skip
def test_personal_data_is_replaced(text: str, scrubbed: str) -> None:
    assert scrub(text)[0] == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "@joe, joe@, joe@localhost, a @ b.com",
        "logo@2x.png git@style.css, at (at) all, git@salsa.debian.org:ddp-team/faq.git",
        "10.0.0.1 192.168.1.1 127.0.0.1 169.254.1.1 192.0.2.7 224.0.0.1 0.0.0.0",
        "1.2.3.4.5, 300.1.1.1, 93.184.216.034, v93.184.216.34, 93.184.216.34x",
        "14.5.4.3. Installing\n  9.2.1.2 Certificates, see Section 9.2.1.4, TWRP 2.8.6.0",
        "the server package only.\n\n9.2.1.1. Authentication",
        "add::bad std::vector a::b ::1 fe80::1 2001:db8::1",
        "12:30:45 10:20 00:1a:2b:3c:4d:5e",
        "ftp://user:password@host/file https://example.org:8080/@joe",
        # no telephone numbers
        "2021-04-29 14:41, 27/02/2022, 19.11.2022, 06-26-2014, 1996 - 2022, 20060301",
        "CVE-2020-24583, ISBN 979-10-91414-21-0, ISSN 2222-2464, Batch: 122797864",
        "3.190.000 Personen, 1 298 528 38 949, $12 345 678, 4.838594613958412",
        "05 06 07 08 09 10 11\n12 13 14 15 16 17 18",
        "The gathering commander 38400 50, 192.168.0.0/16",
        "charged her phone 742 / 106 = 7 times", "to reach the target is 300-180", "3600000000000 + 62426244000", "655502 cell phones",
        "iPhone 655502", "tell 655502",
        "size 6195324 bytes, 0 2021-07-25, fotolia 73444491 1280 256",
        # no cards, accounts, numbers of the state
        "4111 1111 1111 1112, 1234567890123456, 4006381333931, 1.5382691050147506",
        "0000 0000 0000 0000, tracking 9400110200881234567890",
        "DE89 3704 0044 0532 0130 01, XX89 3704 0044 0532 0130 00, GB82WEST1234569876543",
        "078-05-1120, 666-12-3456, 900-12-3456, 123-00-4567, 536-90-43991",
        "order 111222333, item 44051401359, part 12345678A, ref 880320-0016",
        # no secrets
        "password: required, token = getToken(), api_key=os.environ, secret: xxxxxxxx, password: ********",
        "skip-list sk-learn hf_transfer AKIA eyJ key-value https://example.org/a-very-long-path-2024-of-words",
        "commit 1a410efbd13591db07496601ebc7a059dd55cfe9, sha256 of the file",
        # no addresses
        "May 06, 2022 News\nSalsas January 26, 2010 in Appetizers\nDecember 29, 2014 RyanReese",
        "12 Best Places to Eat", "10 minutes on the street", "via port 80", "Via HTTP/2, 3 Day Weekend",
        "Tabellenplatz 3, auf Platz 5", "Bundesstraße 29, unterwegs 12", "ROWS BETWEEN 60 PRECEDING AND CURRENT ROW",
        "(IEC/EN 62053-21)", "see Figure 12 Main", "Office Suite 2010", "okuthiwa eMbali Unit 14", "in the 400 block of Edmond Street",
        "the 2008 Wall Street crash", "20 Ask Dr. No", "20 Joe Green\n",
        "Käufer 3, Brigade 93, Katie 12, Anstieg 5", "on May 5 Wall Street",
        "1605 Posts\n273 Topics", "over 59100 packages", "Version 5, 10000 Users",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert scrub(text) == (text, [])


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
        "ghp_" + drawn(WORD, 36),
        "github_pat_" + drawn(WORD, 22) + "_" + drawn(WORD, 59),
        "glpat-" + drawn(WORD, 20),
        "xoxb-" + drawn(string.digits, 12) + "-" + drawn(WORD, 24),
        "sk_live_" + drawn(WORD, 24),
        "AIza" + drawn(WORD, 35),
        "sk-proj-" + drawn(WORD, 48),
        "sk-ant-api03-" + drawn(WORD, 80),
        "hf_" + drawn(string.ascii_letters, 34),
        "SG." + drawn(WORD, 22) + "." + drawn(WORD, 43),
        "npm_" + drawn(WORD, 36),
        "dop_v1_" + drawn(HEX, 64),
        "shpat_" + drawn(HEX, 32),
        # {"alg":"HS256","typ":"JWT"} . {"sub":"1234567890"} . nothing real
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0." + drawn(WORD, 43),
        "-----BEGIN RSA PRIVATE" + " KEY-----\n" + "\n".join(drawn(WORD, 64) for _ in range(4)) + "\n-----END RSA PRIVATE" + " KEY-----",
    ],
)  # fmt: skip
def test_an_issued_key_is_found_wherever_it_stands(secret: str) -> None:
    assert scrub(f"Use {secret} here")[0] == "Use [SECRET] here"
    assert scrub(f'key="{secret}"\n')[0] == 'key="[SECRET]"\n'


@pytest.mark.parametrize(
    ("before", "behind"),
    [("DB_PASSWORD=", "\n"), ("api_key: '", "'"), ('"client_secret": "', '",'), ("Authorization: Bearer ", "\n"), ("secret_key := ", "")],
)
def test_a_value_is_secret_if_its_name_says_so(before: str, behind: str) -> None:
    assert scrub(f"{before}hT7kq9zLw0Xp3RvB52nM{behind}")[0] == f"{before}[SECRET]{behind}"
    assert scrub(f"colour{before[-3:]}hT7kq9zLw0Xp3RvB52nM{behind}")[1] == []


def test_a_slack_webhook_and_a_storage_key_are_found() -> None:
    hook = "T" + drawn("ABCDEF0123", 9) + "/B" + drawn("ABCDEF0123", 9) + "/" + drawn(WORD, 24)
    assert scrub(f"https://hooks.slack.com/services/{hook}")[0] == "https://hooks.slack.com/services/[SECRET]"
    assert scrub("AccountName=x;AccountKey=" + drawn(WORD, 86) + "==;")[0] == "AccountName=x;AccountKey=[SECRET];"


def test_the_language_says_whose_telephone_numbers_are_meant() -> None:
    assert [span.kind for span in find("0471 80 60 745", "de")] == ["phone"]
    assert find("0471 80 60 745", "ja") == []


@given(st.ip_addresses())
def test_an_ip_address_goes_exactly_if_it_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    public = address.is_global and not address.is_multicast
    if address.version == 6:
        public = public and ("::" not in str(address) or address in ipaddress.ip_network("2000::/3"))
    scrubbed, _ = scrub(f"from host {address} today", kinds=["ip"])
    assert scrubbed == ("from host [IP] today" if public else f"from host {address} today")


BEGIN, END = ("-----" + word + " PRIVATE" + " KEY-----" for word in ("BEGIN", "END"))
HOSTILE: dict[Kind, list[str]] = {
    "email": ["a@", "@a.", "a.", "(at) a.", "a(at)", "joe@x."],
    "ip": ["1.", ":", "a:", "1.1.1.1.", "::1:", "93.184.216.34."],
    "credentials": ["://", "://a:", "://a:b@", "://" + "a" * 120 + ":"],
    "phone": ["1 ", "+1 ", "(0", "030 ", "tel ", "call 1", "555-1234 / ", "00 "],
    "credit_card": ["4", "4111 ", "4111-", "411111111111111 "],
    "iban": ["DE89", "DE", "GB82WEST1234", "DE89 3704 "],
    "ssn": ["123-", "123-45-", "123-45-6789-"],
    "national_id": ["111222333", "BSN ", "12345678Z", "AAAAAA00", "756.", "BSN 111222333 "],
    "secret": ["eyJ", "eyJa.", "sk-", "ghp_", "password=", "a=", "=:", BEGIN, END, BEGIN + END, "token:a", "Bearer "],
    "address": ["1 ", "1 Main ", "12 A ", "1\n", "Str. 1 ", "Suite 1 ", "1 a b c d e Apt. 1", "Box ", "Via A ", "12345 A", "CA 12345 ",
                "1 rue de "],
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "name"])
def test_time_is_linear_in_hostile_text(kind: Kind) -> None:
    for piece in HOSTILE[kind]:
        for _ in range(3):  # a busy machine makes a measurement too long now and then, and never too short
            seconds = []
            for size in (12_000, 48_000):
                text = piece * (size // len(piece))
                find(text[:2_000], kinds=[kind])
                begun = time.process_time()
                find(text, kinds=[kind])
                seconds.append(time.process_time() - begun)
            # four times the text: four times the time, eight where the clock is coarse, sixteen if it were quadratic
            linear = all(later < max(0.2, 9 * earlier) for earlier, later in pairwise(seconds)) and seconds[-1] < 4
            if linear:
                break
        assert linear, (piece, seconds)
