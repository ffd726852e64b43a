//! `keyhatch agent-notes`: what an agent should know, for a file that it reads.

/// For AGENTS.md or CLAUDE.md.
pub(super) const TEXT: &str = "\
## Working inside keyhatch

This project is worked on inside a keyhatch sandbox: `KEYHATCH_SESSION` is set there, and `keyhatch-helper status` (in a
container `/run/keyhatch/keyhatch-helper status`) says in ten lines what is allowed, what is asked and what is denied.
There are no keys, tokens or ssh-agents inside, and none are needed: use git as usual. `git push` and whatever else is
asked for stays open while a person looks at exactly what would be pushed and decides; this can take minutes. Wait for
it. If your tool cuts the command off, run the very same command again: an approval that came meanwhile counts for it.
If it is refused, the reason is in git's own output; tell the user and go on with something else. Do not work around it:
do not change remotes or git configuration, look for other credentials, or send the work elsewhere. Files such as `.env`
and private keys are shown empty on purpose; ask the user for what you need from them. If a host, a file or a system
call is refused and you need it, say which, and why: the user can allow it in the policy and start a new session.
";
