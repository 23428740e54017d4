#!/bin/sh
# Installs the programs that the tests talk to, where that is possible; says loudly which are missing where it is not.
# SKIP_SERVICES installs nothing, REQUIRE_SERVICES makes a missing one an error.
set -u
services='chromium curl redis-server nats-server'
missing () { for p in $services; do command -v "$p" > /dev/null 2>&1 || printf ' %s' "$p"; done; }
want=$(missing)
if [ -n "$want" ] && [ -z "${SKIP_SERVICES:-}" ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt='apt-get -qq -o DPkg::Lock::Timeout=300'
  { $apt update && $apt install -y --no-install-recommends $want; } > /dev/null < /dev/null
  want=$(missing)
fi
if [ -n "$want" ]; then
  echo "!!! NOT INSTALLED:$want - the tests that need them are SKIPPED (apt-get install$want)" >&2
  [ -z "${REQUIRE_SERVICES:-}" ] || exit 1
fi
