"""URLs taken apart and brought to one form (RFC 3986, and the WHATWG URL standard where browsers differ from it)."""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote

# Parameters that tell where a visitor came from, and sessions: the page is the same without them.
TRACKING_PREFIXES = ("utm_", "mtm_", "pk_", "piwik_", "hsa_", "at_campaign", "at_medium", "oly_", "vero_")
TRACKING_PARAMETERS = frozenset(
    ["_ga", "_gl", "_hsenc", "_hsmi", "_openstat", "dclid", "fb_action_ids", "fb_action_types", "fb_ref", "fb_source", "fbclid", "gbraid",
     "gclid", "gclsrc", "hsctatracking", "igsh", "igshid", "jsessionid", "li_fat_id", "mc_cid", "mc_eid", "mkt_tok", "ml_subscriber",
     "ml_subscriber_hash", "msclkid", "phpsessid", "rb_clickid", "ref_src", "ref_url", "s_cid", "scm", "spm", "srsltid", "ttclid", "twclid",
     "wbraid", "wickedid", "xtor", "yclid", "ymclid", "ysclid"]
)  # fmt: skip
DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21", "ws": "80", "wss": "443"}

_PARTS = re.compile(
    r"([a-z][a-z0-9+.-]*)://(?:([^/?#\\]*)@)?(\[[^\]/?#\\]*\]|[^/?#\\:]*)(:[^/?#\\]*)?([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL
)
_REMOVED = re.compile(r"[\t\r\n]")
_SESSION = re.compile(r";jsessionid=[^/;]*", re.IGNORECASE)
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_NOT_PLAIN = re.compile(r"%([0-9A-Fa-f]{2})|[^!$&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]|]")
_EDGES = "".join(map(chr, range(33)))  # control characters and the space
_HOST_LETTERS = re.compile(r"[a-z0-9._-]*")


def split(url: str) -> tuple[str, str, str, str, str, str] | None:
    """Scheme, user, host, port (with its colon), path, query (with its question mark) as written; None for what has no host's place."""
    match = _PARTS.fullmatch(_REMOVED.sub("", url.strip(_EDGES)))
    if match is None:
        return None
    scheme, user, host, port, path, query = match.groups(default="")
    return scheme.lower(), user, host, port, path, query


def host_of(url: str) -> str:
    """The host in lower case, internationalised names in their ASCII form (UTS 46), without a final dot; "" if there is none."""
    parts = split(url)
    return canonical_host(parts[2]) if parts else ""


def canonical_host(host: str) -> str:
    """A host name as `host_of` gives it; one that is no valid name stays as it is, in lower case."""
    if host.isascii() and "%" not in host:
        return host.lower().rstrip(".")
    return _ascii_host(host)


@functools.lru_cache(maxsize=4096)
def _ascii_host(host: str) -> str:
    import idna

    name = unquote(host, errors="surrogateescape")
    try:
        mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        labels = [label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split(".")]
    except idna.IDNAError:
        return host.lower().rstrip(".")
    ascii_name = ".".join(labels).lower().rstrip(".")
    return ascii_name if _HOST_LETTERS.fullmatch(ascii_name) else host.lower().rstrip(".")


def normalise(url: str) -> str:
    """The one form of all URLs that lead to the same page for certain, for http and https; others come back without outer spaces.

    Scheme and host in lower case, internationalised hosts in ASCII, no default port, no fragment, no `.` and `..` in the path,
    an empty path as `/`, no tracking parameter and no session id, no empty parameter; percent-encoding in capitals, only and
    always where it is needed (letters, digits and `-._~` never have it). The order of parameters, the scheme, `www.` and a final
    slash are kept: they may tell pages apart. `normalise(normalise(url)) == normalise(url)`.
    """
    parts = split(url)
    if parts is None or parts[0] not in ("http", "https") or not parts[2]:
        return url.strip(_EDGES)
    scheme, user, host, port, path, query = parts
    number = port[1:]
    if number and not (number.isascii() and number.isdigit()):
        return url.strip(_EDGES)
    number = number.lstrip("0") or number[:1]
    port = f":{number}" if number and number != DEFAULT_PORTS[scheme] else ""
    path = _without_dots(_SESSION.sub("", _encoded(path.replace("\\", "/")))) or "/"
    kept = [part for part in map(_encoded, query[1:].split("&")) if part and not is_tracking(part.partition("=")[0])]
    user = f"{user}@" if user else ""
    return f"{scheme}://{user}{canonical_host(host)}{port}{path}{'?' if kept else ''}{'&'.join(kept)}"


def is_tracking(parameter: str) -> bool:
    """Whether a query parameter of this name says nothing about the page."""
    name = parameter.lower()
    return name in TRACKING_PARAMETERS or name.startswith(TRACKING_PREFIXES)


def _encoded(text: str) -> str:
    """Percent-encoding where it is needed and nowhere else. A percent sign that starts no escape is encoded itself."""
    return _NOT_PLAIN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    if not match[1]:
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace"))
    letter = chr(int(match[1], 16))
    return letter if letter in _UNRESERVED else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
