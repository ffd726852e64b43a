//! What every sandbox has of the machine that it is on, whatever the policy says: programs, how to print, and limits.

use keyhatch_policies::SessionLimits;
use keyhatch_policies::rules::Limits;

/// What of the host is shown read-only: programs, libraries, and the configuration that they cannot do without.
/// `/etc` is not shown whole: it holds host keys, machine ids and other people's secrets.
pub const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    // Debian's start script of chromium reads its flags there.
    "/etc/chromium.d",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/inputrc",
    // Debian's Java is links into these.
    "/etc/java-11-openjdk",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/java-25-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/tls",
    "/etc/profile",
    "/etc/protocols",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Variables of the user's that say how to print, and nothing else.
pub const KEPT: &[&str] = &["COLORTERM", "COLUMNS", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "TERM", "TZ"];

/// Open descriptors of one process inside: builds need thousands, nothing needs more.
const OPEN_FILES: u64 = 65_536;

/// What `setrlimit(2)` and file systems can hold, whether or not a cgroup holds more.
#[must_use]
pub fn limits(session: &SessionLimits, cgroup: bool) -> Limits {
    // Without a cgroup a supervisor looks at the sum many times a second; this stops what one process takes in between.
    // Far above the limit, because it counts what is reserved and never touched.
    let data =
        session.memory.filter(|_| !cgroup).map(|bytes| bytes.saturating_mul(4).saturating_add(1 << 30));
    Limits {
        open_files: Some(OPEN_FILES),
        file_bytes: None,
        // The cgroup counts what is inside alone, and says when it refused: it comes first.
        processes: Some(if cgroup { session.processes + 16 } else { session.processes }),
        data_bytes: data,
        memory_files: Some(session.disk),
    }
}
