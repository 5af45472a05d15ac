"""Python requests through the gateway: one URL allowed, one refused."""

import os
import sys

import requests

proxies = {"https": os.environ["PROXY"]}
answer = requests.get(
    os.environ["ALLOWED"] + "/hello", proxies=proxies, verify=os.environ["CA"], timeout=20
)
answer.raise_for_status()
print("allowed:", answer.text)

try:
    requests.get(
        os.environ["REFUSED"] + "/hello", proxies=proxies, verify=os.environ["CA"], timeout=20
    )
except requests.exceptions.ProxyError as error:
    print("refused:", error)
else:
    sys.exit("the refused URL was fetched")
