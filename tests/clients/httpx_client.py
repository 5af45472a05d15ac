"""Python httpx through the gateway: one URL allowed, one refused."""

import os
import ssl
import sys

import httpx

tls = ssl.create_default_context(cafile=os.environ["CA"])
with httpx.Client(proxy=os.environ["PROXY"], verify=tls, timeout=20) as client:
    answer = client.get(os.environ["ALLOWED"] + "/hello")
    answer.raise_for_status()
    print("allowed:", answer.text)

    try:
        client.get(os.environ["REFUSED"] + "/hello")
    except httpx.ProxyError as error:
        print("refused:", error)
    else:
        sys.exit("the refused URL was fetched")
