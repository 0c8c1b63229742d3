#!/bin/sh
# Installs what dha needs to build and run on Debian 12 (apt packages only). Runs as root or with sudo.
# Idempotent: when every package is there it asks dpkg once and ends.
#   deploy/install-deps.sh          install what is missing
#   deploy/install-deps.sh --list   print the package names and end
set -eu

packages="
build-essential cmake ninja-build pkg-config ca-certificates curl procps openssh-client python3 python3-venv python3-yaml gnuplot-nox
libuv1-dev libcjson-dev libsqlite3-dev libmicrohttpd-dev libcurl4-openssl-dev libssl-dev
libopenmpi-dev openmpi-bin
libdnnl-dev libopenblas-openmp-dev liblapacke-dev
libsentencepiece-dev libzstd-dev zlib1g-dev libxxhash-dev
libcmocka-dev
"
# liblapacke-dev needs some BLAS and LAPACK; libopenblas-openmp-dev, named in the same transaction, provides
# them. Should another flavour be there too: the worker is linked to the OpenMP one by its own run path.

say() { printf 'install-deps: %s\n' "$*" >&2; }

case "${1-}" in
--list)
    for p in $packages; do echo "$p"; done
    exit 0
    ;;
'') ;;
*)
    say "unknown argument '$1' (the only one is --list)"
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    say "this is not a Debian system (no dpkg-query or apt-get)."
    say "install the equivalents of these packages by hand, then run make:"
    # shellcheck disable=SC2086
    say $packages
    exit 1
fi

missing=
# shellcheck disable=SC2086
have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $packages 2>/dev/null || true)
for p in $packages; do
    case "
$have
" in
    *"
$p installed
"*) ;;
    *) missing="$missing $p" ;;
    esac
done
if [ -z "$missing" ]; then
    say "all packages are installed"
    exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    say "these packages are missing:$missing"
    say "run this script as root, or install sudo"
    exit 1
fi

say "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# The lists may be absent (a container) or old (a package's file is gone): refresh once, then install.
$as_root apt-get update -q
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
