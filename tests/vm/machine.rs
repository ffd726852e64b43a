//! A virtual machine with a kernel of Debian's, reached over ssh. The disk is `disk.sh`'s and is not written: each start is the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyhatch_tests::free_port;

/// Without hardware virtualisation a boot takes half a minute alone, and several times that beside other work.
const BOOT: Duration = Duration::from_secs(420);

/// All that the emulator knows, but for the 16-byte compare-and-exchange: qemu 7.2 sometimes breaks the kernel's allocator with it.
const CPU: &str = "max,cx16=off";

/// What a program is called inside, and where it lies here.
pub type Program = (String, PathBuf);

/// One running machine; ends when dropped.
pub struct Machine {
    qemu: Child,
    port: u16,
}

/// What a script printed, both streams, and how it ended.
pub struct Told {
    /// What it printed.
    pub text: String,
    /// Whether it ended with 0.
    pub ok: bool,
}

impl Machine {
    /// Boots the kernel whose version starts so, and copies programs to `/home/kh/bin`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(version: &str, programs: &[Program]) -> Self {
        let kernels = directory().join("kernels");
        let names = std::fs::read_dir(&kernels).unwrap_or_else(|_| {
            panic!("there are no kernels: run ./test.sh, which builds them by tests/vm/disk.sh")
        });
        let name = names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with(version) && name.ends_with(".vmlinuz"))
            .unwrap_or_else(|| panic!("no kernel {version}: remove target/vm and run ./test.sh"));
        let port = free_port();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "1280", "-display", "none", "-no-reboot", "-snapshot"])
            .arg("-kernel")
            .arg(kernels.join(&name))
            .arg("-initrd")
            .arg(kernels.join(name.replace(".vmlinuz", ".initrd")))
            .args(["-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 lsm=landlock,lockdown,yama,apparmor,bpf mitigations=off"])
            .arg("-serial")
            .arg(format!("file:{}", directory().join(format!("{version}log")).display()))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio", directory().join("disk.img").display()))
            .args(["-device", "virtio-rng-pci", "-nic"])
            .arg(format!("user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"))
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64 starts: ./test.sh installs it");
        let mut machine = Self { qemu, port };
        let started = Instant::now();
        while !machine.run("kh", "true").ok {
            assert!(
                machine.qemu.try_wait().expect("qemu is ours").is_none(),
                "the machine of {version} ended: see target/vm"
            );
            assert!(
                started.elapsed() < BOOT,
                "the machine of {version} does not answer: see target/vm/{version}log"
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        machine.copy(programs);
        machine
    }

    /// Runs a script as `kh` or `root`.
    pub fn run(&self, user: &str, script: &str) -> Told {
        let mut ssh = self.ssh(user);
        ssh.arg("bash -s 2>&1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ssh = ssh.spawn().expect("ssh starts");
        // A machine that is not up yet does not read it; the exit code says so.
        ssh.stdin.take().expect("it is piped").write_all(script.as_bytes()).ok();
        let told = ssh.wait_with_output().expect("ssh ends");
        let text =
            format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        Told { text, ok: told.status.success() }
    }

    fn copy(&self, programs: &[Program]) {
        let stripped = tempfile::tempdir().expect("a directory");
        for (name, program) in programs {
            let status =
                Command::new("strip").arg("-o").arg(stripped.path().join(name)).arg(program).status();
            assert!(status.expect("strip runs").success(), "{}", program.display());
        }
        let tar = Command::new("tar")
            .arg("-C")
            .arg(stripped.path())
            .args(["-cf", "-", "."])
            .stdout(Stdio::piped())
            .spawn();
        let mut tar = tar.expect("tar starts");
        let mut ssh = self.ssh("kh");
        ssh.arg("mkdir -p bin && tar -C bin -xf -").stdin(tar.stdout.take().expect("it is piped"));
        assert!(ssh.status().expect("ssh runs").success(), "programs cannot be copied into the machine");
        tar.wait().expect("tar ends");
    }

    fn ssh(&self, user: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ])
        .args(["-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-i"])
        .arg(directory().join("key"))
        .args(["-p", &self.port.to_string(), &format!("{user}@127.0.0.1")]);
        ssh
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm")
}
