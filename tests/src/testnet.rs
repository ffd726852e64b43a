//! A network for tests: the user's machine and a machine of servers, in namespaces that an ordinary user makes.
//!
//! What keyhatch refuses after resolution (loopback, private addresses) cannot be where test servers are reached, and
//! nothing in keyhatch is switched off for tests: so the broker itself runs on a machine of its own, on which the servers
//! have public addresses. Documentation ranges stand for those: 203.0.113.0/24, 2001:db8::/32.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Finished, Running, World, https};

/// The server's address that has names.
pub const SERVER: &str = "203.0.113.10";
/// Its IPv6 address.
pub const SERVER_V6: &str = "2001:db8:1::10";
/// The user's machine in this network.
pub const USER_MACHINE: &str = "203.0.113.1";

/// Two machines and a wire between them; gone when dropped.
pub struct TestNet<'w> {
    world: &'w World,
    directory: PathBuf,
    user_side: u32,
    servers: u32,
    _keeper: Running,
}

impl<'w> TestNet<'w> {
    /// Makes them. `web.example.org` and `files.example.org` are the server.
    ///
    /// # Panics
    /// When this machine gives no namespaces, or lacks a program.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        Self::with_rate(world, None)
    }

    /// The same, with a line that carries no more than this from the servers (`tc-tbf(8)`: `1gbit`).
    ///
    /// # Panics
    /// As [`TestNet::new`].
    #[must_use]
    pub fn with_rate(world: &'w World, rate: Option<&str>) -> Self {
        for (program, package) in [("/usr/bin/node", "nodejs"), ("/usr/sbin/ip", "iproute2")] {
            assert!(Path::new(program).exists(), "{package} is missing: run ./test.sh, which installs it");
        }
        let directory = world.make_directory("net");
        world.write(
            "net/hosts",
            &format!("127.0.0.1 localhost\n{SERVER} web.example.org files.example.org\n"),
        );
        world.write("net/resolv.conf", "nameserver 203.0.113.53\noptions timeout:1 attempts:1\n");
        world.write("net/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
        if let Some(rate) = rate {
            world.write("net/rate", rate);
        }
        let script = world.write("net/network.sh", include_str!("../peers/network.sh"));
        world.write("net/peer.mjs", include_str!("../peers/peer.mjs"));
        https::certificates(
            world,
            &directory,
            "DNS:web.example.org,DNS:files.example.org,DNS:model.example.org",
        );
        let mut keeper = world.command("unshare");
        keeper.args(["--user", "--map-current-user", "--keep-caps", "--net", "--mount", "--", "sh"]);
        keeper.arg(script).arg(&directory);
        let keeper = world.spawn(keeper);
        let ready = directory.join("ready");
        world.wait_until("the test network is there", || ready.exists());
        let numbers = fs::read_to_string(ready).expect("it can be read");
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().expect("a process"));
        let (user_side, servers) = (numbers.next().expect("two"), numbers.next().expect("two"));
        Self { world, directory, user_side, servers, _keeper: keeper }
    }

    /// Gives a name to an address, on the user's machine.
    pub fn name(&self, name: &str, address: &str) {
        // In place: the file is mounted by its inode.
        let mut hosts =
            fs::OpenOptions::new().append(true).open(self.directory.join("hosts")).expect("it is there");
        writeln!(hosts, "{address} {name}").expect("it can be written");
    }

    /// A command on the user's machine, in a directory.
    pub fn command(&self, directory: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.on(self.user_side, directory, program.as_ref())
    }

    /// A command on the servers' machine.
    pub fn server(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.on(self.servers, &self.directory, program.as_ref())
    }

    fn on(&self, machine: u32, directory: &Path, program: &std::ffi::OsStr) -> Command {
        let mut command = self.world.command("nsenter");
        command.args([
            "--target",
            &machine.to_string(),
            "--user",
            "--net",
            "--mount",
            "--preserve-credentials",
        ]);
        // Entering a mount namespace forgets the directory.
        command.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(directory).arg(program);
        command
    }

    /// Starts a shell script in a project's sandbox, on the user's machine.
    pub fn start(&self, project: &Path, policy: &str, script: &str) -> Running {
        let mut command = self.command(project, self.world.path("bin/keyhatch"));
        command.args(["run", "--policy", policy, "--", "bash", "-c", script]);
        self.world.spawn(command)
    }

    /// The same, to its end.
    pub fn run(&self, project: &Path, policy: &str, script: &str) -> Finished {
        self.start(project, policy, script).finish()
    }

    /// Runs a keyhatch command on the user's machine.
    pub fn keyhatch(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(&self.world.home(), self.world.path("bin/keyhatch"));
        command.args(arguments).output().expect("keyhatch runs").into()
    }

    /// Starts a server: a role of `tests/peers/peer.mjs`.
    pub fn serve(&self, role: &str, port: u16, more: &[&str]) -> Running {
        self.serve_on(self.servers, role, port, more)
    }

    /// Starts a server on the user's own machine.
    pub fn serve_beside_the_broker(&self, role: &str, port: u16) -> Running {
        self.serve_on(self.user_side, role, port, &[])
    }

    fn serve_on(&self, machine: u32, role: &str, port: u16, more: &[&str]) -> Running {
        let mut command = self.on(machine, &self.directory, "/usr/bin/node".as_ref());
        command.args(["peer.mjs", role, &port.to_string()]).args(more);
        let running = self.world.spawn(command);
        let ready = self.directory.join(format!("ready-{role}-{port}"));
        self.world.wait_until("a server is ready", || ready.exists());
        running
    }

    /// Starts an HTTPS server with a certificate of [`TestNet::ca`].
    pub fn serve_https(&self, port: u16) -> Running {
        self.serve("https", port, &["server.key", "server.pem"])
    }

    /// The CA of the server's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// What the servers saw, a line each.
    #[must_use]
    pub fn arrived(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("arrived.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Puts the CA where the session sees it, and returns its path: a file of the project.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn ca_in(&self, project: &Path) -> PathBuf {
        let path = project.join("test-ca.crt");
        fs::copy(self.ca(), &path).expect("it can be copied");
        self.world.user.owns(&path);
        path
    }
}

/// A policy with a `[network]` section and nothing else.
#[must_use]
pub fn network_policy(name: &str, section: &str) -> String {
    format!("name = \"{name}\"\ndescription = \"a test\"\n\n{section}\n")
}
