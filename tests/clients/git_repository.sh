# Makes a small repository, served/project.git under the given directory, for git's plain HTTP protocol.
set -eu
cd "$1"
export HOME="$1" GIT_CONFIG_NOSYSTEM=1
git init --quiet --initial-branch=main work
cd work
echo "hello from acme" > hello
git add hello
git -c user.name=acme -c user.email=acme@acme.example commit --quiet --message "Say hello"
mkdir ../served
git clone --quiet --bare . ../served/project.git
git -C ../served/project.git update-server-info
