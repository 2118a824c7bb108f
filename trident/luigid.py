"""Whether a luigid answers at an address, which may hold a name and a password.

Luigi takes `http://name:password@host:port` for a luigid behind a server that asks for them. They are sent as Luigi
sends them, and told nobody else.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from http.client import HTTPException, InvalidURL
from urllib.parse import unquote, urlsplit

from trident.store.redact import REMOVED, redact_text

_MOST_BYTES = 1 << 16
_HARMLESS = "/api/is_pause_enabled"
_USER_INFO = re.compile(r"^(?P<scheme>[^:/@]*://)?.*@", re.DOTALL)


def shown_address(url: str) -> str:
    """An address without name and password.

    A password may hold any character, also one that belongs there only when it is quoted: all up to the last @ goes.
    """
    return redact_text(_USER_INFO.sub(rf"\g<scheme>{REMOVED}@", url))


def request_to(url: str, path: str) -> urllib.request.Request:
    """A request to a luigid, or to the server before it; what goes wrong with it quotes no password.

    Args:
        url: address of the luigid.
        path: what is asked, such as `/api/is_pause_enabled`.

    Raises:
        ValueError: this is no address; says so without the address.
    """
    try:
        parts = urlsplit(url.rstrip("/"))
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # it quotes what it took for a port, which may be half a password
        is_address = False
    if not is_address:
        raise ValueError("no address of the form http://host:port")
    without = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    request = urllib.request.Request(without.geturl() + path)
    if parts.password is not None:
        known = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        # Not sent on to wherever the server may refer to.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(known.encode()).decode())
    return request


def problem_of(url: str, timeout_s: float) -> str | None:
    """What keeps a run from using the luigid at this address; None where it answers.

    Its interface is asked what changes nothing: any web server has a first page, and a proxy answers for others.

    Args:
        url: address, `http://` or `https://`.
        timeout_s: seconds without a byte.
    """
    try:
        with urllib.request.urlopen(request_to(url, _HARMLESS), timeout=timeout_s) as answer:
            content = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        return f"no luigid: it answers HTTP {error.code} ({redact_text(str(error.reason))})"
    except (ValueError, InvalidURL):  # what the second says may quote a password
        return "no address: write it as http://host:port"
    except (OSError, HTTPException) as error:
        return f"luigid does not answer ({redact_text(str(error))})"
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    return None if isinstance(value, dict) and "response" in value else "no luigid: something else answers there"
