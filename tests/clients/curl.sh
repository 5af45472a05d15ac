# curl with the proxy in the environment, as products are deployed: one URL allowed, one refused.
set -u
export https_proxy="$PROXY"
body=$(curl --silent --show-error --max-time 20 --cacert "$CA" "$ALLOWED/hello") || exit 1
echo "allowed: $body"
if said=$(curl --silent --verbose --max-time 20 --cacert "$CA" "$REFUSED/hello" 2>&1); then
    echo "the refused URL was fetched" && exit 1
fi
# The credentials that curl itself shows in its verbose output are not the gateway's doing.
echo "refused: $said" | grep --invert-match --ignore-case '^> proxy-authorization'
