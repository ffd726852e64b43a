#!/bin/bash
# Run by `devcontainer features test` in a container that has the Feature and no session.
set -e
source dev-container-features-test-lib

check "git is told where the session's settings are" sh -c 'git config --file /etc/gitconfig --get-all include.path | grep -x /run/keyhatch/gitconfig-etc'
check "the environment says it too" test "$GIT_CONFIG_SYSTEM:$GIT_CONFIG_VALUE_0" = /run/keyhatch/gitconfig:/run/keyhatch/gitconfig-brokered
check "git works without a session" git config --list
check "the start says that there is no session" sh -c '/usr/local/share/keyhatch/started 2>&1 | grep "no session is mounted"'

reportResults
