//! A real HTTPS server with `git http-backend`: apache2, run by the user on loopback, with a CA of its own.

use std::path::{Path, PathBuf};

use crate::ports::wait_for;
use crate::{Running, World, free_port};

/// A running apache2; ends when dropped.
pub struct HttpsServer {
    /// Its port.
    pub port: u16,
    /// The CA that signed its certificate.
    pub ca: PathBuf,
    _apache: Running,
}

impl HttpsServer {
    /// The login that it accepts.
    pub const USER: &'static str = "alice";
    /// The password that it accepts: a canary that no test may find inside.
    pub const PASSWORD: &'static str = "canary-5e1f-token-of-alice";

    /// What a link to a large file comes with: another canary.
    pub const LINK: &'static str = "canary-77aa-token-of-a-link";

    /// Starts one that wants a login for everything.
    #[must_use]
    pub fn start(world: &World) -> Self {
        Self::start_with(world, "Require valid-user", "")
    }

    /// Starts one that anybody may read and push to.
    #[must_use]
    pub fn start_open(world: &World) -> Self {
        Self::start_with(world, "Require all granted", "")
    }

    /// Starts one that sends everybody elsewhere.
    #[must_use]
    pub fn start_redirecting(world: &World, target: &str) -> Self {
        Self::start_with(world, "Require all granted", &format!("Redirect permanent / {target}\n"))
    }

    /// Starts one that wants a login for everything, and serves the large files that lie in `large` to git-lfs. Its links
    /// come with a token of their own, [`HttpsServer::LINK`]; those to `large-elsewhere` lead to another place.
    #[must_use]
    pub fn start_with_large_files(world: &World, elsewhere: &str) -> Self {
        let script = include_str!("large_files.py")
            .replace("@LARGE@", &world.make_directory("large").display().to_string())
            .replace("@LINK@", Self::LINK)
            .replace("@ELSEWHERE@", elsewhere);
        let program = world.write_mode("large_files.py", &script, 0o755);
        let served = format!("ScriptAliasMatch \"^/([^/]+)/info/lfs/(.*)$\" \"{}/$2\"\n", program.display());
        Self::start_with(world, "Require valid-user", &served)
    }

    /// Starts one that means harm: what it does is the name of the repository, see `hostile/server.py`.
    #[must_use]
    pub fn start_hostile(world: &World) -> Self {
        let program = world.write_mode("hostile_server.py", include_str!("hostile/server.py"), 0o755);
        let served = format!("ScriptAlias /hostile \"{}\"\n", program.display());
        Self::start_with(world, "Require all granted", &served)
    }

    fn start_with(world: &World, require: &str, before: &str) -> Self {
        assert!(
            Path::new("/usr/sbin/apache2").exists(),
            "apache2-bin is missing: run ./test.sh, which installs it"
        );
        let port = free_port();
        let directory = world.make_directory(&format!("https-{port}"));
        let at = |name: &str| directory.join(name).display().to_string();
        certificates(world, &directory, "IP:127.0.0.1,DNS:localhost");
        let hash = world
            .command("openssl")
            .args(["passwd", "-apr1", Self::PASSWORD])
            .output()
            .expect("openssl runs");
        let hash = String::from_utf8(hash.stdout).expect("a hash is text");
        world.write(&format!("https-{port}/passwords"), &format!("{}:{hash}", Self::USER));
        let config = format!(
            "ServerName localhost\nListen 127.0.0.1:{port}\nPidFile {pid}\nErrorLog {error}\nLogLevel warn\n\
             {modules}ScriptSock {sock}\nMutex file:{directory} default\n\
             SSLSessionCache none\nSSLEngine on\nSSLCertificateFile {cert}\nSSLCertificateKeyFile {key}\n\
             SetEnvIf Git-Protocol \".*\" GIT_PROTOCOL=$0\nSetEnv GIT_PROJECT_ROOT {srv}\n\
             SetEnv GIT_HTTP_EXPORT_ALL\n{before}ScriptAlias / {backend}/\n\
             <Location />\nAuthType Basic\nAuthName up\nAuthUserFile {passwords}\n{require}\n</Location>\n",
            pid = at("pid"),
            error = at("error.log"),
            modules = modules(),
            sock = at("cgid"),
            directory = directory.display(),
            cert = at("server.pem"),
            key = at("server.key"),
            srv = world.path("srv").display(),
            backend = exec_path(world).join("git-http-backend").display(),
            passwords = at("passwords"),
        );
        let config = world.write(&format!("https-{port}/apache.conf"), &config);
        let mut apache = world.command("/usr/sbin/apache2");
        apache.arg("-DFOREGROUND").arg("-f").arg(config);
        let apache = world.spawn(apache);
        wait_for(port, "apache2");
        Self { port, ca: directory.join("ca.pem"), _apache: apache }
    }

    /// Accepts another user's login too, or the same user's with another password.
    ///
    /// # Panics
    /// When openssl does not run.
    pub fn add_user(&self, world: &World, user: &str, password: &str) {
        let hash =
            world.command("openssl").args(["passwd", "-apr1", password]).output().expect("openssl runs");
        let hash = String::from_utf8(hash.stdout).expect("a hash is text");
        let name = format!("https-{}/passwords", self.port);
        let others = std::fs::read_to_string(world.path(&name)).expect("the users that there are");
        let others = others.lines().filter(|line| !line.starts_with(&format!("{user}:")));
        let mut lines: Vec<String> = others.map(|line| format!("{line}\n")).collect();
        lines.push(format!("{user}:{hash}"));
        world.write(&name, &lines.concat());
    }

    /// The URL of a repository under `srv`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.port)
    }

    /// Names the CA in the user's global configuration.
    pub fn trust(&self, world: &World) {
        world.git(&world.home(), &["config", "--global", "http.sslCAInfo", &self.ca.to_string_lossy()]).ok();
    }

    /// Stores the login where git's own `store` helper finds it.
    pub fn log_in(&self, world: &World) {
        let line = format!("https://{}:{}@127.0.0.1:{}\n", Self::USER, Self::PASSWORD, self.port);
        world.write_mode("home/.git-credentials", &line, 0o600);
        world.git(&world.home(), &["config", "--global", "credential.helper", "store"]).ok();
    }
}

fn modules() -> String {
    let names = [
        "mpm_event",
        "authn_core",
        "authn_file",
        "authz_core",
        "authz_user",
        "auth_basic",
        "ssl",
        "cgid",
        "env",
        "alias",
        "socache_shmcb",
        "setenvif",
    ];
    let line = |name: &&str| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
    names.iter().map(line).collect()
}

fn exec_path(world: &World) -> PathBuf {
    let path = world.git(&world.home(), &["--exec-path"]).ok();
    PathBuf::from(path.stdout.trim())
}

/// A CA, and a certificate of its for these names: a server's certificate must not be a CA's.
pub(crate) fn certificates(world: &World, directory: &Path, names: &str) {
    let run = |arguments: &[&str]| {
        let mut openssl = world.command("openssl");
        let done = openssl.current_dir(directory).args(arguments).output().expect("openssl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let ca = ["req", "-x509", "-subj", "/CN=keyhatch test CA", "-keyout", "ca.key", "-out", "ca.pem"];
    run(&[&ca[..], &key[..]].concat());
    let server = [
        "req",
        "-x509",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.pem",
        "-addext",
        &format!("subjectAltName={names}"),
        "-addext",
        "basicConstraints=CA:FALSE",
    ];
    run(&[&server[..], &key[..]].concat());
}
