#!/usr/bin/env bash
# The packages: built of what Cargo.toml says, installed under a real systemd, made ready as README.md says, run
# against the sandbox, upgraded, removed and purged, the Debian one and the rpm one alike. Their man pages and completions
# are read by what reads them. The system is this machine's own under a layer that is thrown away, without its services.
# Wants root, systemd-nspawn, dpkg, rpm, python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
need dpkg-deb "It comes with Debian and its kin."
need python3 "apt-get install python3"
need systemd-nspawn "apt-get install systemd-container dbus"
need dbus-daemon "apt-get install dbus"
need nsenter "It comes with util-linux."
need strip "apt-get install binutils"
need rpmbuild "apt-get install rpm"
[ "$(id -u)" = 0 ] || left_out "root" "Try sudo $0."
if [ "${PACKAGES_UNSHARED:-}" != 1 ]; then
    # What is mounted here is gone when this ends, whatever happens.
    PACKAGES_UNSHARED=1 exec unshare --mount --propagation private "$0" "$@"
fi

target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --locked --bins
cargo run --quiet --locked --example generate -- "$target/assets" >/dev/null

work=$(mktemp -d)
nspawn=
alive() { [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
clean_up() {
    if [ -n "$nspawn" ]; then
        kill -TERM "$nspawn" 2>/dev/null || true
        for _ in {1..150}; do
            alive "$nspawn" || break
            sleep 0.1
        done
        kill -KILL "$nspawn" 2>/dev/null || true
    fi
    umount -R "$work/layer" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
fail() {
    echo "packages.sh: $1" >&2
    [ -z "${leader:-}" ] || inside journalctl --no-pager -n 40 >&2 || true
    exit 1
}

build() { packaging/build-deb --binaries "$target/debug" --assets "$target/assets" --output "$work" --compression gzip "$@"; }
old=$(build --version 0.0.9-1)
new=$(build)
echo "ok: $(basename "$new")"
build_rpm() { packaging/build-rpm --binaries "$target/debug" --assets "$target/assets" --output "$work" --compression w1.gzdio "$@"; }
old_rpm=$(build_rpm --version 0.0.9)
new_rpm=$(build_rpm)
rpm -qp --requires "$new_rpm" | grep -q '^libc.so.6' || fail "the rpm does not say what C library it needs"
echo "ok: $(basename "$new_rpm")"
# The other package installs the same files.
python3 - <<'PYTHON'
import tomllib
metadata = tomllib.load(open("Cargo.toml", "rb"))["package"]["metadata"]
deb = {(source, target.replace("vendor-completions", "site-functions")) for source, target, _ in metadata["deb"]["assets"]}
rpm = {(asset["source"], asset["dest"].lstrip("/")) for asset in metadata["generate-rpm"]["assets"]}
zsh = lambda assets: {(s, t.replace("zsh/vendor-completions", "zsh/site-functions")) for s, t in assets}
assert zsh(deb) == zsh(rpm), zsh(deb) ^ zsh(rpm)
PYTHON
echo "ok: the deb and the rpm install the same files"

soft_need() { # a command; whether it is here, and a word where it is not
    command -v "$1" >/dev/null && return
    [ "${CI_REQUIRE_REAL:-}" != 1 ] || fail "$1 is missing, and CI_REQUIRE_REAL=1 wants it"
    echo "packages.sh: $1 is missing, and what it would read is not tried"
    echo "packages.sh ($1)" >>"$need_left_out"
    return 1
}
dpkg-deb --extract "$new" "$work/tree"
for help in tests/golden/help/*.long; do
    page=waldur-usage-$(basename "$help" .long)
    [ -s "$work/tree/usr/share/man/man1/$page.1.gz" ] || fail "there is no man page $page"
done
if soft_need mandoc; then
    for page in "$work"/tree/usr/share/man/man1/*.gz; do
        zcat "$page" | mandoc -T utf8 -O width=78 -W error >/dev/null || fail "$(basename "$page") is no man page"
    done
    echo "ok: man pages"
fi
share=$work/tree/usr/share
# shellcheck disable=SC2034,SC2207 # bash hands these to the function, and it answers in one of them
completed=$(bash -c '. "$1"; COMP_WORDS=(waldur-usage-agent rec); COMP_CWORD=1
    function=$(complete -p waldur-usage-agent | sed "s/.*-F \([^ ]*\).*/\1/")
    "$function" waldur-usage-agent rec waldur-usage-agent; echo "${COMPREPLY[*]}"' _ \
    "$share/bash-completion/completions/waldur-usage-agent")
[ "$completed" = recount ] || fail "bash completes rec to \`$completed\`"
if soft_need zsh; then
    completed=$(zsh -f tests/complete.zsh "$share/zsh/vendor-completions" "waldur-usage-agent rec")
    [ "$completed" = "waldur-usage-agent recount " ] || fail "zsh completes rec to \`$completed\`"
fi
if soft_need fish; then
    completed=$(fish -c "source '$share/fish/vendor_completions.d/waldur-usage-agent.fish'
        complete -C 'waldur-usage-agent rec'" | cut -f1 | tr '\n' ' ')
    [[ " $completed" == *" recount "* ]] || fail "fish completes rec to \`$completed\`"
fi
echo "ok: completions"

mkdir "$work/layer"
mount -t tmpfs -o mode=755 layer "$work/layer"
mkdir "$work/layer/upper" "$work/layer/work" "$work/layer/root"
root=$work/layer/root
if ! mount -t overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" layer "$root"; then
    left_out "overlayfs" "Some containers may not mount it."
fi
# None of this machine's services, and none of its traces of an earlier installation.
rm -rf "$root/etc/systemd/system" "$root/etc/waldur-usage-agent" "$root/var/lib/waldur-usage-agent" \
    "$root/var/lib/private/waldur-usage-agent" "$root/etc/machine-id"
mkdir -p "$root/etc/systemd/system" "$root/packages"
: >"$root/etc/machine-id"
printf '[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n' >"$root/etc/systemd/system/packages.target"
cp "$old" "$new" "$old_rpm" "$new_rpm" "$root/packages"
setsid systemd-nspawn -D "$root" --register=no --keep-unit --console=pipe --machine="packages$$" --private-network \
    -b systemd.unit=packages.target systemd.mask=systemd-firstboot.service >"$work/nspawn.log" 2>&1 </dev/null &
nspawn=$!
leader=
inside() { nsenter -t "$leader" -a "$@"; }
up=
for _ in {1..600}; do
    alive "$nspawn" || break
    leader=$(awk '{ print $1; exit }' "/proc/$nspawn/task/$nspawn/children" 2>/dev/null || true)
    if [ -n "$leader" ]; then
        state=$(inside systemctl is-system-running 2>/dev/null || true)
        case $state in running | degraded) up=yes && break ;; esac
    fi
    sleep 0.1
done
if [ -z "$up" ]; then
    cat "$work/nspawn.log" >&2
    leader=
    left_out "a systemd that boots in a container" "Its words are above."
fi

property() { inside systemctl show --property="$1" --value waldur-usage-agent.service; }
expect() { # what we look at, what it is, what it should be
    [ "$2" = "$3" ] || fail "$1 is \`$2\` and should be \`$3\`"
    echo "ok: $1: $2"
}
wait_for() { # what, a command that tells it, a pattern
    local seen=
    for _ in {1..600}; do
        seen=$("${@:3}" 2>/dev/null | tr -d ' \n' || true)
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $seen == $2 ]] && echo "ok: $1" && return
        sleep 0.1
    done
    fail "$1: waited in vain, in the end for this to change: $seen"
}
state() {
    inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/8099
        printf "GET /sandbox/state HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" >&3; cat <&3'
}
dpkg_() { inside env PATH="$PATH" DEBIAN_FRONTEND=noninteractive dpkg "$@" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; fail "dpkg $*"; }; }

dpkg_ --install "/packages/$(basename "$old")"
grep -q 'now run `waldur-usage-agent init`' "$work/dpkg.log" || fail "it does not say what to do next"
expect "the service's user" "$(inside id -un waldur-usage-agent)" waldur-usage-agent
expect "after a new installation" "$(property ActiveState) $(property UnitFileState)" "inactive disabled"
expect "the configuration's directory" "$(inside stat -c '%U %a' /etc/waldur-usage-agent)" "root 755"

inside systemd-run --quiet --unit=sandbox /usr/bin/waldur-sandbox
wait_for "the sandbox answers" '*"resources"*' state
inside bash -c 'umask 077; echo sandbox-token >/etc/waldur-usage-agent/token'
inside waldur-usage-agent init --url http://127.0.0.1:8099 --source cgroup \
    --resource 5e2f0000-0000-4000-8000-000000000003 >"$work/init.log" ||
    { cat "$work/init.log" >&2; fail "init fails"; }
inside head -n1 /etc/waldur-usage-agent/agent.yaml | grep -q 'schema=/usr/share/waldur-usage-agent/agent.schema.json' ||
    fail "init does not tell editors where the schema is"
echo "ok: init, and its check"
configure() {
    inside bash -c 'umask 077; echo sandbox-token >/etc/waldur-usage-agent/token'
    inside tee /etc/waldur-usage-agent/agent.yaml >/dev/null <<'YAML'
waldur: { url: "http://127.0.0.1:8099" }
collectors:
  seven:
    plugin: exec
    command: [echo, '{"name":"seven","kind":"gauge","value":7}']
    schedule: every 1h
    resource: 5e2f0000-0000-4000-8000-000000000001
    meters: { gpu_hours: { reading: seven, aggregate: last } }
YAML
}
configure
inside waldur-usage-agent check --as-service >"$work/check.log" || { cat "$work/check.log" >&2; fail "check --as-service"; }
echo "ok: check --as-service, before the service runs"
inside systemctl enable --quiet --now waldur-usage-agent.service || fail "it does not start"
pid=$(property MainPID)
expect "the process' user" "$(inside stat -c %U "/proc/$pid")" waldur-usage-agent
inside systemctl kill --signal=USR1 waldur-usage-agent.service
wait_for "it reports" '*"usage":"7.00"*' state
# What Waldur holds of the first resource, and how many agree.
agreed() {
    inside env CREDENTIALS_DIRECTORY=/etc/waldur-usage-agent waldur-usage-agent status --json --all | tr -d ' \n' |
        grep -o '"agreed":[0-9]*\|"waldur_holds":"[0-9.]*"' | head -n 2 | tr -d '\n'
}
both='"waldur_holds":"7.00""agreed":1'
wait_for "and knows what Waldur holds" "$both" agreed

# Both kinds of package, while the service runs.
upgrade() { # by this command
    local pid ledger
    pid=$(property MainPID)
    ledger=$(inside stat -L -c '%i %U %a' /var/lib/waldur-usage-agent/ledger.db)
    "$@"
    wait_for "the new version is ready" active property ActiveState
    [ "$(property MainPID)" != "$pid" ] || fail "the old process goes on after: $*"
    expect "the ledger after the upgrade" "$(inside stat -L -c '%i %U %a' /var/lib/waldur-usage-agent/ledger.db)" "$ledger"
    expect "what Waldur holds after the upgrade" "$(agreed)" "$both"
}
upgrade dpkg_ --install "/packages/$(basename "$new")"
expect "the token after the upgrade" "$(inside cat /etc/waldur-usage-agent/token)" sandbox-token

dpkg_ --remove waldur-usage-agent
expect "after the removal" "$(property ActiveState) $(inside systemctl is-enabled waldur-usage-agent.service 2>/dev/null || true)" "inactive "
inside test -s /etc/waldur-usage-agent/agent.yaml || fail "the removal took the configuration"
inside test -s /var/lib/waldur-usage-agent/ledger.db || fail "the removal took the ledger"
dpkg_ --install "/packages/$(basename "$new")"
inside systemctl enable --quiet --now waldur-usage-agent.service || fail "it does not start again"
expect "what Waldur holds after an installation over an old ledger" "$(agreed)" "$both"
dpkg_ --purge waldur-usage-agent
inside test ! -e /etc/waldur-usage-agent || fail "the purge left the configuration and its token"
inside test -s /var/lib/waldur-usage-agent/ledger.db || fail "the purge took the ledger"
echo "ok: removed and purged; the ledger stays"

rpm_() { inside rpm --nodeps "$@" >"$work/rpm.log" 2>&1 || { cat "$work/rpm.log" >&2; fail "rpm $*"; }; }
rpm_ --install "/packages/$(basename "$old_rpm")"
grep -q 'now run `waldur-usage-agent init`' "$work/rpm.log" || fail "the rpm does not say what to do next"
expect "after a new installation of the rpm" "$(property ActiveState) $(property UnitFileState)" "inactive disabled"
expect "the configuration's directory" "$(inside stat -c '%U %a' /etc/waldur-usage-agent)" "root 755"
configure
inside systemctl enable --quiet --now waldur-usage-agent.service || fail "it does not start"
pid=$(property MainPID)
expect "the process' user" "$(inside stat -c %U "/proc/$pid")" waldur-usage-agent
upgrade rpm_ --upgrade "/packages/$(basename "$new_rpm")"
rpm_ --erase waldur-usage-agent
expect "after the removal" "$(property ActiveState) $(inside systemctl is-enabled waldur-usage-agent.service 2>/dev/null || true)" "inactive "
inside test ! -e /usr/bin/waldur-usage-agent || fail "the removal left the program"
inside test -s /etc/waldur-usage-agent/agent.yaml || fail "the removal took the configuration"
inside test -s /var/lib/waldur-usage-agent/ledger.db || fail "the removal took the ledger"
echo "ok: the rpm is gone; the ledger stays"
