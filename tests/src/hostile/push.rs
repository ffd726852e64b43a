//! The body of a push, gitprotocol-pack(5): any commands, any capabilities, any pack.

use keyhatch_protocol::ObjectFormat;

/// What git asks for, but progress.
pub const CAPABILITIES: &str = "report-status side-band-64k agent=git/2.47.0";

/// The name that stands for "no object".
#[must_use]
pub fn zero(format: ObjectFormat) -> String {
    "0".repeat(format.digits())
}

/// Commands and a pack.
#[derive(Debug, Clone)]
pub struct PushBytes {
    /// Capabilities of the first command.
    pub capabilities: String,
    /// `old new ref`.
    pub commands: Vec<[String; 3]>,
    /// Push options; listed only where the capabilities have `push-options`.
    pub options: Vec<String>,
    /// The pack; none where everything is deleted.
    pub pack: Vec<u8>,
}

impl PushBytes {
    /// A push of a pack, without commands yet.
    #[must_use]
    pub fn of(pack: Vec<u8>) -> Self {
        Self { capabilities: CAPABILITIES.to_owned(), commands: Vec::new(), options: Vec::new(), pack }
    }

    /// Adds a command.
    #[must_use]
    pub fn command(mut self, old: &str, new: &str, ref_name: &str) -> Self {
        self.commands.push([old.to_owned(), new.to_owned(), ref_name.to_owned()]);
        self
    }

    /// Adds a command that makes a ref.
    #[must_use]
    pub fn create(self, new: &str, ref_name: &str) -> Self {
        let none = "0".repeat(new.len());
        self.command(&none, new, ref_name)
    }

    /// The request's body.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (at, [old, new, ref_name]) in self.commands.iter().enumerate() {
            let capabilities = if at == 0 { format!("\0 {}", self.capabilities) } else { String::new() };
            body.extend(pkt(format!("{old} {new} {ref_name}{capabilities}").as_bytes()));
        }
        body.extend_from_slice(b"0000");
        if self.capabilities.contains("push-options") {
            self.options.iter().for_each(|option| body.extend(pkt(option.as_bytes())));
            body.extend_from_slice(b"0000");
        }
        body.extend_from_slice(&self.pack);
        body
    }
}

fn pkt(line: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:04x}", line.len() + 4).into_bytes();
    bytes.extend_from_slice(line);
    bytes
}
