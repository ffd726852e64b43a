//! Where upstream's default branch is: `HEAD` of upload-pack's refs, gitprotocol-v2(5) "ls-refs", or of the first line that
//! older servers say.

use futures_util::StreamExt;
use keyhatch_protocol::{ObjectFormat, ObjectId, Scheme};

use super::{Service, Upstream, UpstreamError, http, keyed, ssh};
use crate::pktline::{self, Packet, Packets};

/// Protocol v2 is asked for: a server then names one ref, and not all.
const VERSION: &str = "version=2";
/// Most bytes of an answer that was asked for one ref.
const MAX_ANSWER: usize = 64 * 1024;

impl Upstream {
    /// Where the default branch is; none where there is none yet.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is no git server.
    pub(crate) async fn head(&self, format: ObjectFormat) -> Result<Option<ObjectId>, UpstreamError> {
        if let Some(name) = self.named_key()? {
            return keyed::head(self, name, format).await;
        }
        match self.remote.scheme() {
            Scheme::Https => self.head_over_https(format).await,
            Scheme::Ssh | Scheme::Scp => ssh::head(self, format).await,
        }
    }

    async fn head_over_https(&self, format: ObjectFormat) -> Result<Option<ObjectId>, UpstreamError> {
        let advertised = http::advertisement(self, Service::UploadPack, Some(VERSION)).await?;
        if !ssh::speaks_v2(&advertised.bytes) {
            return Ok(head_of(&advertised.bytes));
        }
        let body = futures_util::stream::once(std::future::ready(Ok(ls_head(format).into())));
        let mut answer = http::upload_pack(self, Some(VERSION), None, body).await?;
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(chunk) = answer.next().await {
            let broken = |source| UpstreamError::Host { what: "read what upstream has", source };
            bytes.extend_from_slice(&chunk.map_err(broken)?);
            if bytes.len() > MAX_ANSWER {
                return Err(UpstreamError::NotGit { authority: self.remote.authority() });
            }
        }
        Ok(head_of(&bytes))
    }
}

/// The question for `HEAD` alone.
pub(super) fn ls_head(format: ObjectFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    pktline::write(&mut bytes, b"command=ls-refs\n");
    if format == ObjectFormat::Sha256 {
        pktline::write(&mut bytes, b"object-format=sha256\n");
    }
    bytes.extend_from_slice(b"0001");
    pktline::write(&mut bytes, b"ref-prefix HEAD\n");
    bytes.extend_from_slice(b"0000");
    bytes
}

/// `HEAD` among refs as any version lists them.
pub(super) fn head_of(bytes: &[u8]) -> Option<ObjectId> {
    let mut packets = Packets::new(bytes);
    while let Ok(Some(Packet::Data(line))) = packets.next_packet() {
        let Some((id, rest)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' ')) else {
            continue;
        };
        let is_head = rest
            .strip_prefix("HEAD")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['\0', ' ', '\n']));
        if is_head
            && let Ok(id) = ObjectId::parse(id)
            && !id.is_zero()
        {
            return Some(id);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_found_in_every_version_and_nothing_else_is_taken_for_it() {
        let id = "a".repeat(40);
        let of = |lines: &[String]| {
            let mut bytes = Vec::new();
            lines.iter().for_each(|line| pktline::write(&mut bytes, line.as_bytes()));
            bytes.extend_from_slice(b"0000");
            head_of(&bytes).map(|id| id.as_str().to_owned())
        };
        assert_eq!(of(&[format!("{id} HEAD\0symref=HEAD:refs/heads/m\n")]), Some(id.clone()));
        assert_eq!(of(&[format!("{id} HEAD symref-target:refs/heads/m\n")]), Some(id.clone()));
        assert_eq!(of(&[format!("{id} HEADS\n"), format!("{id} refs/heads/HEAD\n")]), None);
        assert_eq!(of(&["unborn HEAD symref-target:refs/heads/m\n".to_owned()]), None);
        assert_eq!(of(&[format!("{} capabilities^{{}}\0x", "0".repeat(40))]), None);
    }
}
