#!/usr/bin/env bash
# Brings what tests use and no package of Debian's stable release holds: downloads.sh DIRECTORY.
#
# All of it is made once, before a test runs: a test never downloads for another, and never sees half a program. Each
# thing is made under a name of its own beside its place and appears by rename; what is there already is kept. A new
# version has a new name.
set -euo pipefail
mkdir -p "$1"
into=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

# bring NAME COMMAND…: the command is given the directory to fill as its last word.
bring() {
    local name=$1 work
    shift
    [ ! -e "$into/$name" ] || return 0
    echo "downloads.sh: $name"
    work=$(mktemp -d "$into/.$name.XXXXXX")
    chmod 755 "$work"
    if ! "$@" "$work" >"$work.log" 2>&1; then
        cat "$work.log" >&2
        echo "downloads.sh: $name cannot be had" >&2
        rm -rf "$work" "$work.log"
        return 1
    fi
    rm -f "$work.log"
    mv "$work" "$into/$name"
}

# What npm installs for a user, with `bin` in it.
npm_global() { npm install --global --loglevel=error --no-audit --no-fund --prefix "$2" "$1"; }
# What a directory's own `npm install` brings: `node_modules`.
npm_local() { npm install --loglevel=error --no-audit --no-fund --prefix "$2" "$1"; }
pip_target() { pip3 install --quiet --target "$2" "$1"; }
# As pipx makes it. It is called as a module: what is in bin/ names the directory it was made in.
pip_venv() {
    /usr/bin/python3 -m venv --without-pip "$2"
    /usr/bin/pip3 --python "$2/bin/python" install --quiet "$1"
}

bring jj "$here/peers/jj.sh"
# The command line of devcontainers, at the version that was tried.
bring devcontainers-cli-0.89.0 npm_local @devcontainers/cli@0.89.0
bring sandbox-runtime-0.0.78 npm_global @anthropic-ai/sandbox-runtime@0.0.78
bring claude-code-2.1.197 npm_global @anthropic-ai/claude-code@2.1.197
bring codex-0.169.0 npm_global @openai/codex@0.169.0
bring opencode-1.18.33 npm_global opencode-ai@1.18.33
# Kubernetes' own schemas, and the YAML parser that comes with them.
bring kubernetes-validate-1.37.0 pip_target kubernetes-validate==1.37.0
bring aider-0.86.2 pip_venv aider-chat==0.86.2
