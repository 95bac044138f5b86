"""Ask the server in this container for /healthz: exit status 0 where it answers 200, else 1.

Host, port and TLS are those of the environment (CSM_HOST, CSM_PORT, CSM_TLS_CERT); flags of the
command and a settings file cannot be seen from here.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 5.0
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def connection() -> http.client.HTTPConnection:
    """Return an unopened connection to the server."""
    host = os.environ.get("CSM_HOST", "")
    address = _LOOPBACK.get(host, host)
    port = int(os.environ.get("CSM_PORT") or 8080)
    if not os.environ.get("CSM_TLS_CERT"):
        return http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    # The certificate names the public host, not this address.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(address, port, timeout=TIMEOUT_S, context=unverified)


def main() -> int:
    """Return the exit status."""
    try:
        server = connection()
        server.request("GET", "/healthz")
        status = server.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"/healthz cannot be asked: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"/healthz answers {status}", file=sys.stderr)
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
