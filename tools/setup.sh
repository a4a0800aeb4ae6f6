# Shared by tools/start, tools/test and .ci/run: makes sure that this machine has what bitdustfs needs.
# Sourced by bash. Quiet when nothing is missing; when a step fails, it shows the end of that step's log.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$top/.venv
python=${PYTHON:-python3}
unset PYTHONDONTWRITEBYTECODE # a swarm is many processes: each would compile everything again

say() { printf '%s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Run a step with its output in a file; show the end of it, without addresses, when it fails.
step() {
    local title=$1 log
    shift
    say "$title"
    log=$(mktemp)
    if "$@" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return 0
    fi
    tail -n 25 "$log" | sed -E 's#[a-z+]+://[^ ]+#(address)#g' >&2
    rm -f "$log"
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@" # asks for the password on the terminal itself
    else
        return 1
    fi
}

# Print the Debian packages that are missing, given what is needed: "run", "build", "test".
missing_packages() {
    local need
    for need in "$@"; do
        case $need in
        run)
            command -v fusermount3 >/dev/null || echo fuse3
            "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
            ;;
        build)
            command -v gcc >/dev/null && [ -e /usr/include/stdlib.h ] || echo gcc libc6-dev
            command -v pkg-config >/dev/null || echo pkg-config
            pkg-config --exists fuse3 2>/dev/null || echo libfuse3-dev
            "$python" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || echo python3-dev
            ;;
        test)
            command -v git >/dev/null || echo git
            command -v rsync >/dev/null || echo rsync
            command -v setfattr >/dev/null || echo attr
            command -v sqlite3 >/dev/null || echo sqlite3
            command -v man >/dev/null || echo man-db
            PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null || echo iproute2
            PATH=$PATH:/usr/sbin:/sbin command -v nft >/dev/null || echo nftables
            ;;
        esac
    done | tr ' ' '\n' | sort -u
}

ensure_packages() {
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    command -v apt-get >/dev/null || die "these packages are missing, and there is no apt-get to install them: $missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    {
        step "Installing $missing" as_root apt-get update &&
            step "  ..." as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y --no-install-recommends $missing
    } || die "could not install: $missing"
}

# Make sure of everything: what is needed to run and for the further needs, and .venv with the package and an extra
# ("" or "dev"). .venv is made anew or completed only when pyproject.toml is not the one that it was made for.
ensure() {
    local extra=$1 stamp want
    shift
    "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1 || echo missing)"
    stamp=$venv/.installed${extra:+-$extra}
    want=$(sha256sum <"$top/pyproject.toml")$top
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        ensure_packages run "$@"
        return 0
    fi
    ensure_packages run build "$@"
    # Erasure coding is faster with it. Nothing needs it, and not every machine can have it.
    as_root apt-get install -y --no-install-recommends libisal2 >/dev/null 2>&1 </dev/null || true
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        step "Making .venv" "$python" -m venv "$venv" || die "could not make .venv"
    fi
    step "Installing bitdustfs into .venv (a few minutes the first time)" \
        "$venv/bin/python" -m pip install --disable-pip-version-check -e "$top${extra:+[$extra]}" ||
        die "could not install bitdustfs into .venv"
    printf '%s' "$want" >"$stamp"
}
