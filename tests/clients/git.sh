# git over https through the gateway: one repository cloned, one refused.
set -u
export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_SSL_CAINFO="$CA" https_proxy="$PROXY"
git clone --quiet "$ALLOWED/project.git" cloned || exit 1
echo "allowed: $(cat cloned/hello)"
if said=$(GIT_CURL_VERBOSE=1 git clone "$REFUSED/project.git" refused 2>&1); then
    echo "the refused repository was cloned" && exit 1
fi
echo "refused: $said" | grep --invert-match --ignore-case 'proxy-authorization'
