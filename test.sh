#!/usr/bin/env bash
# Passes all tests on a fresh Debian machine with git, a C compiler and rustup. Installs what is missing and says why.
set -euo pipefail
cd "$(dirname "$0")"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Package, the file that shows it is there, and what it is for.
needed="
openssh-server /usr/sbin/sshd     the SSH server that tests push to
openssh-client /usr/bin/ssh       the ssh that the broker runs
apache2-bin    /usr/sbin/apache2  the HTTPS server that tests push to
openssl        /usr/bin/openssl   certificates for it
g++            /usr/bin/g++       the C++ compiler of libFuzzer
git            /usr/bin/git       the distribution's own git, beside any other
bubblewrap     /usr/bin/bwrap     what start-up is compared with
tmux           /usr/bin/tmux      a terminal for tests
git-lfs        /usr/bin/git-lfs   large files, made inside and taken on the host
strace         /usr/bin/strace    kills a broker in front of its n-th system call
iproute2       /usr/sbin/ip       two machines on a wire, for tests of the network
nodejs         /usr/bin/node      servers of that network, and what agents are written in
npm            /usr/bin/npm       agents and packages from the registry
python3-pip    /usr/bin/pip3      packages from the registry
golang-1.19-go /usr/lib/go-1.19/bin/go  a go that fetches modules
chromium       /usr/bin/chromium  a browser, headless, as agents use it
python3        /usr/bin/python3   the actor that tries to get out of the sandbox
ripgrep        /usr/bin/rg        what srt looks for files with
socat          /usr/bin/socat     what srt bridges its proxies with
rsync          /usr/bin/rsync     a client of the session's ssh-agent
curl           /usr/bin/curl      another one: libssh2
gnome-keyring  /usr/bin/gnome-keyring-daemon  a real Secret Service, for credentials that keyhatch keeps
dbus           /usr/bin/dbus-daemon           the bus that it is reached through
gnupg          /usr/bin/gpg       OpenPGP signatures of the host's
gpgsm          /usr/bin/gpgsm     X.509 signatures of the host's
mmdebstrap     /usr/bin/mmdebstrap  root file systems with gits of four ages, for containers
runc           /usr/sbin/runc       containers without root
podman         /usr/bin/podman      containers as their users start them
crun           /usr/bin/crun        what podman starts them with
uidmap         /usr/bin/newuidmap   more than one user id in a container without root
docker.io      /usr/sbin/dockerd    containers with root
docker-compose /usr/bin/docker-compose  a service that is started with a printed session
qemu-system-x86 /usr/bin/qemu-system-x86_64  older and newer kernels, in virtual machines
"
missing=""
while read -r package file why; do
    [ -n "$package" ] || continue
    if [ ! -e "$file" ]; then
        echo "test.sh: installing $package: $why"
        missing="$missing $package"
    fi
done <<<"$needed"
if [ -n "$missing" ]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# keyhatch serves ordinary users: where root runs the tests, everything that is tested runs as this one.
if [ "$(id -u)" = 0 ] && ! id keyhatch-test >/dev/null 2>&1; then
    echo "test.sh: making the user keyhatch-test: tests run as an ordinary user"
    useradd --create-home --shell /bin/bash keyhatch-test
fi

# Settings of this shell that git, ssh or TLS would obey have no place in a test.
unset GIT_SSL_CAINFO SSL_CERT_FILE CURL_CA_BUNDLE GIT_SSH_COMMAND GIT_CONFIG_PARAMETERS SSH_AUTH_SOCK

# What is built beside ends before this does: root's work in the tree must not go on behind the user's back.
ending() {
    [ -z "$(jobs -pr)" ] || echo "test.sh: waiting for what is still being built or downloaded"
    wait
}
trap ending EXIT

# Beside the build, which needs the processors where this waits for the network.
tests/images/build.sh target/images &
images=$!
as_root tests/vm/disk.sh &
disk=$!
tests/downloads.sh target/downloads &
downloads=$!

step() {
    echo "== $*"
    "$@"
}
step cargo fmt --all --check
step cargo clippy -j2 --workspace --all-targets --quiet -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc -j2 --workspace --no-deps --quiet
step cargo build -j2 --workspace --quiet
step packaging/static-helper.sh target/containers
step wait "$images"
step wait "$disk"
step wait "$downloads"
# Inputs that break a parser are found here, 10 seconds for each.
step tests/fuzz/run.sh 10
# A test that fails hides none of the others.
step cargo test -j2 --workspace --quiet --no-fail-fast
