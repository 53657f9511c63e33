"""What can be told of a page by its URL alone: whether it is wanted, whose it is, and which other URLs are the same.

>>> from data_prep.urls import UrlFilter, compile_entries, normalise, registered_domain
>>> urls = UrlFilter(compile_entries({"gambling": ["casino.example", "forum.example/poker"]}, allow=["help.casino.example"]))
>>> urls.check("https://www.casino.example/win")
'blocked_gambling'
>>> urls.check("https://forum.example/chess"), urls.check("https://help.casino.example/")
(None, None)
>>> normalise("HTTPS://Example.com:443/a/../b?utm_source=x&id=1#top")
'https://example.com/b?id=1'
>>> registered_domain("news.bbc.co.uk")
'bbc.co.uk'
"""

from data_prep.urls.address import host_of, normalise
from data_prep.urls.blocklist import Blocklist, Facts, Words
from data_prep.urls.compiling import compile_entries, compile_lists
from data_prep.urls.filter import Blocked, UrlFilter
from data_prep.urls.lists import ENDINGS, OWN_LISTS, list_kind
from data_prep.urls.suffixes import is_public_suffix, registered_domain

__all__ = [
    "ENDINGS",
    "OWN_LISTS",
    "Blocked",
    "Blocklist",
    "Facts",
    "UrlFilter",
    "Words",
    "compile_entries",
    "compile_lists",
    "host_of",
    "is_public_suffix",
    "list_kind",
    "normalise",
    "registered_domain",
]
