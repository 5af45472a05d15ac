# curl without credentials: the answer names what is missing.
set -u
if curl --silent --verbose --max-time 20 --proxy "$ANONYMOUS_PROXY" --cacert "$CA" "$ALLOWED/hello" 2>&1; then
    exit 1
fi
exit 0
