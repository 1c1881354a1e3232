#!/usr/bin/env bash
# The last stage of the Containerfile: made of the Debian package, and run for real. Without the network, without a
# daemon, as nobody, with a root file system that can't be written. It measures its own control group and reports to
# the sandbox, which runs from the same image, by a name. Wants root, buildah, podman and runc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
for command in buildah podman runc; do need "$command" "apt-get install buildah podman runc"; done
[ "$(id -u)" = 0 ] || left_out "root" "Try sudo $0."

target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --locked --bins
cargo run --quiet --locked --example generate -- "$target/assets" >/dev/null

work=$(mktemp -d)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
store=(--root "$work/root" --runroot "$work/run")
sandbox=
clean_up() {
    if [ -n "$sandbox" ]; then
        kill "$sandbox" 2>/dev/null || true
        wait "$sandbox" 2>/dev/null || true
    fi
    podman "${store[@]}" rm --all --force >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# The first stage can't run here, because its image would have to be fetched: this is its end.
deb=$(packaging/build-deb --binaries "$target/debug" --assets "$target/assets" --output "$work" --compression gzip)
packaging/image-root "$deb" "$work/context/out"
sed -n '/^FROM scratch/,$p' Containerfile | sed 's/ --from=build//' >"$work/context/Containerfile"
buildah "${store[@]}" build --quiet --tag localhost/waldur-usage-agent:test "$work/context"

run() { # arguments of podman run, then those of the container
    podman --cgroup-manager=cgroupfs --runtime runc "${store[@]}" run --rm --network=host --read-only --cap-drop=all \
        --security-opt=no-new-privileges --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 "$@"
}
run --name sandbox --entrypoint /usr/bin/waldur-sandbox localhost/waldur-usage-agent:test --listen 127.0.0.1:0 >"$work/sandbox.out" 2>&1 &
sandbox=$!
until grep -q '^listening on ' "$work/sandbox.out"; do
    kill -0 "$sandbox" 2>/dev/null || { cat "$work/sandbox.out" >&2; exit 1; }
    sleep 0.05
done
url=$(sed -n 's|^listening on http://127.0.0.1:|http://localhost:|p' "$work/sandbox.out")

agent() {
    run -v usage:/var/lib/waldur-usage-agent -e "WALDUR_URL=$url" -e WALDUR_TOKEN=sandbox-token \
        -e WALDUR_RESOURCE=5e2f0000-0000-4000-8000-000000000003 \
        -e 'WALDUR_METERS={ cpu_hours: { reading: cpu_seconds }, ram_gb_hours: { reading: memory_bytes, aggregate: last, factor: 1/1000000 } }' \
        localhost/waldur-usage-agent:test "$@"
}
agent check
agent flush --collect
agent status --json >"$work/status"
grep -q '"ram_gb_hours"' "$work/status" || { cat "$work/status" >&2; exit 1; }
echo "image.sh: the ledger outlived its container, and Waldur holds what it says"
