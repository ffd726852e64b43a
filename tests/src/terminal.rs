//! A terminal with a person at it: tmux, typed into and read like a screen.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::World;

/// How long a test waits for something to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running tmux server with one window; ends when dropped.
pub struct Terminal<'w> {
    world: &'w World,
}

impl<'w> Terminal<'w> {
    /// Opens a window of 100 by 30 with a shell command in a directory.
    ///
    /// # Panics
    /// When tmux is not installed.
    #[must_use]
    pub fn open(world: &'w World, directory: &Path, command: &str) -> Self {
        assert!(Path::new("/usr/bin/tmux").exists(), "tmux is missing: run ./test.sh, which installs it");
        let terminal = Self { world };
        let directory = directory.display().to_string();
        // The window stays when the command ends, so that its last words can be read.
        let command = format!("{command}; echo ended $?; sleep 600");
        terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "30", "-c", &directory, &command]);
        terminal
    }

    fn command(&self) -> Command {
        let mut tmux = self.world.command("tmux");
        tmux.env("TMUX_TMPDIR", self.world.path("run")).env("TERM", "xterm-256color");
        tmux.args(["-L", "keyhatch", "-f", "/dev/null"]);
        tmux
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().expect("tmux runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types keys, by tmux's names: `a`, `Enter`, `C-c`.
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// What is on the screen.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Gives the window another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Waits until the screen shows a text, and returns the screen.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen never shows {text:?}:\n{screen}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

impl Terminal<'_> {
    /// Decides with a key, as a person who reads first: a question takes none that comes at once. Returns the screen.
    ///
    /// # Panics
    /// When the screen never shows the text.
    #[track_caller]
    pub fn decides(&self, key: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            std::thread::sleep(Duration::from_millis(1000));
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen never shows {text:?}:\n{screen}");
            self.keys(&[key]);
        }
    }

    /// Sends bytes as the terminal itself would: a report, a paste.
    pub fn sends(&self, bytes: &[u8]) {
        let hexadecimal: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut arguments = vec!["send-keys", "-H"];
        arguments.extend(hexadecimal.iter().map(String::as_str));
        self.tmux(&arguments);
    }

    /// Pastes a text, marked as one where the program asked for that.
    pub fn pastes(&self, text: &str) {
        self.tmux(&["set-buffer", text]);
        self.tmux(&["paste-buffer", "-p"]);
    }

    /// A value that tmux knows of the window, by its format: `#{alternate_on}`.
    #[must_use]
    pub fn value(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim_end().to_owned()
    }

    /// Waits until the screen's rows are as wanted, and returns them.
    ///
    /// # Panics
    /// When they never are.
    #[track_caller]
    pub fn rows_when(&self, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows: Vec<String> = self.screen().lines().map(str::to_owned).collect();
            if is(&rows) {
                return rows;
            }
            assert!(Instant::now() < deadline, "never {what}:\n{}", rows.join("\n"));
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Types keys again and again until the screen shows a text: a person looks, and types once more.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn keys_until(&self, keys: &[&str], text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen().contains(text) {
            assert!(Instant::now() < deadline, "the screen never shows {text:?}:\n{}", self.screen());
            self.keys(keys);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // The command may have ended the server itself.
        drop(self.command().arg("kill-server").output());
    }
}
