#!/bin/sh
# Runs as root while the image is built. Nothing is downloaded and no program is installed: the helper comes with the
# session's mount, and is the one that fits the broker.
set -eu

if ! command -v git >/dev/null; then
    echo "keyhatch: git is not in this image" >&2
    echo "hint: choose an image with git, or a Feature that installs it, before this one" >&2
    exit 1
fi

if [ "${GITCONFIG:-true}" = true ]; then
    # By its name: GIT_CONFIG_SYSTEM is another file already. That what is included is not there yet is no error to git.
    git config --file /etc/gitconfig --add include.path /run/keyhatch/gitconfig-etc
fi

mkdir -p /usr/local/share/keyhatch
cat >/usr/local/share/keyhatch/started <<SCRIPT
#!/bin/sh
# Runs at each start of the container: says what the session is, or why there is none.
helper=/run/keyhatch/keyhatch-helper
if ! [ -x "\$helper" ]; then
    echo "keyhatch: no session is mounted at /run/keyhatch" >&2
    echo "hint: the sample devcontainer.json opens one by initializeCommand and mounts it" >&2
    exit 0
fi
[ "${FORWARD:-false}" != true ] || "\$helper" forward
"\$helper" status
SCRIPT
chmod 755 /usr/local/share/keyhatch/started
