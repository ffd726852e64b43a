//! What is known of the hosts where many people's repositories are.

/// A host whose repositories have one name each, whatever the case, and the same path over https and ssh.
struct Forge {
    host: &'static str,
    /// Other names of the same service: its ssh on port 443, and its web site.
    aliases: &'static [&'static str],
}

/// Names are unique without case on all of them: GitHub, GitLab and Bitbucket say so in their documentation of names,
/// Forgejo and Gitea by the column `lower_name` of their repositories. Aliases: GitHub, "Using SSH over the HTTPS port";
/// GitLab, "Use SSH on port 443"; Bitbucket, "Use the SSH protocol on port 443".
const FORGES: &[Forge] = &[
    Forge { host: "github.com", aliases: &["ssh.github.com", "www.github.com"] },
    Forge { host: "gitlab.com", aliases: &["altssh.gitlab.com", "www.gitlab.com"] },
    Forge { host: "bitbucket.org", aliases: &["altssh.bitbucket.org", "www.bitbucket.org"] },
    Forge { host: "codeberg.org", aliases: &["www.codeberg.org"] },
    Forge { host: "gitea.com", aliases: &["www.gitea.com"] },
];

/// Whether a host folds the case of its repositories' names, and takes an ssh path with and without a leading slash.
pub(crate) fn is_forge(host: &str) -> bool {
    FORGES.iter().any(|forge| forge.host == host)
}

/// The host that a name of a forge stands for; any other host is its own.
pub(crate) fn known_as(host: &str) -> &str {
    let forge = FORGES.iter().find(|forge| forge.aliases.contains(&host));
    forge.map_or(host, |forge| forge.host)
}
