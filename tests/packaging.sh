#!/usr/bin/env bash
# Holds what is shipped beside the binary to its promises: the systemd units are free of warnings and hardened to an
# exposure of 1.5 or less, the service may drain before it is killed, and one Rust version is named everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

failures=0
passed() { printf 'ok    %s\n' "$1"; }
failed() {
  printf 'FAIL  %s\n' "$1" >&2
  failures=$((failures + 1))
}

require_systemd_analyze() {
  command -v systemd-analyze >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends systemd; } >/dev/null || true
  fi
  command -v systemd-analyze >/dev/null && return
  echo "tests/packaging.sh needs systemd-analyze to judge systemd/: install the package systemd, or run this as root" >&2
  exit 1
}

# In a directory of their own and with a program that exists, as the gateway need not be installed here.
copy_units() {
  sed 's#^ExecStart=/usr/bin/egress-gateway #ExecStart=/bin/true #' systemd/egress-gateway.service \
    >"$units/egress-gateway.service"
  cp systemd/egress-gateway.socket "$units/"
}

units_verify_without_a_warning() {
  local said
  if said=$(systemd-analyze verify --man=no --recursive-errors=no \
    "$units/egress-gateway.service" "$units/egress-gateway.socket" 2>&1) && [ -z "$said" ]; then
    passed "systemd-analyze verify has nothing to say of the units"
  else
    failed "systemd-analyze verify: $said"
  fi
}

service_is_exposed_no_more_than() {
  local tenths=$1 table
  if table=$(systemd-analyze security --offline=true --no-pager --threshold="$tenths" \
    "$units/egress-gateway.service" 2>&1); then
    passed "$(tail -n 1 <<<"$table")"
  else
    failed "systemd-analyze security is above $tenths tenths: $table"
  fi
}

service_may_drain_before_it_is_killed() {
  local drain stop
  drain=$(sed -n 's/^# drain_timeout = "\([0-9]*\)s"$/\1/p' config/gateway.toml)
  stop=$(sed -n 's/^TimeoutStopSec=\([0-9]*\)s$/\1/p' systemd/egress-gateway.service)
  if [ "${stop:-0}" -gt "${drain:-999999}" ]; then
    passed "TimeoutStopSec ($stop s) is longer than limits.drain_timeout ($drain s)"
  else
    failed "TimeoutStopSec (${stop:-absent} s) must be longer than limits.drain_timeout (${drain:-absent} s)"
  fi
}

one_rust_version_everywhere() {
  local pinned minimum image
  pinned=$(sed -n 's/^channel = "\([0-9]*\.[0-9]*\)\.[0-9]*"$/\1/p' rust-toolchain.toml)
  minimum=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml)
  image=$(sed -n 's/^ARG RUST=\([0-9]*\.[0-9]*\)\.[0-9]*$/\1/p' Dockerfile)
  if [ -n "$pinned" ] && [ "$pinned" = "$minimum" ] && [ "$pinned" = "$image" ]; then
    passed "Rust $pinned in rust-toolchain.toml, Cargo.toml and Dockerfile"
  else
    failed "Rust versions differ: rust-toolchain.toml ${pinned:-?}, Cargo.toml ${minimum:-?}, Dockerfile ${image:-?}"
  fi
}

require_systemd_analyze
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
copy_units
units_verify_without_a_warning
service_is_exposed_no_more_than 15
service_may_drain_before_it_is_killed
one_rust_version_everywhere

[ "$failures" = 0 ]
