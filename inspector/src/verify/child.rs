//! The confined child that reads objects once more: confine, read the request, hash everything, answer.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use flate2::bufread::ZlibDecoder;
use gix_pack::index::traverse::Algorithm;
use gix_pack::index::verify::{Mode, PackContext, integrity};
use gix_utils::progress::Discard;
use keyhatch_cage::{Cage, Limits, Work, WorkError};
use keyhatch_protocol::{ObjectFormat, ObjectId};

use super::{Candidate, Verdict, VerifyRequest};

/// Most bytes of a request: paths and names of the objects of one round.
const MAX_REQUEST: u64 = 64 * 1024 * 1024;
/// Longest head of a loose object, `TYPE SIZE NUL`, in bytes.
const MAX_HEAD: usize = 32;
/// An index of version 2, gitformat-pack(5): the only one whose checksums cover every name.
const INDEX_V2: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];

/// Runs `keyhatch-inspect verify-objects`: a confined child.
pub fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyhatch-verify: {}", keyhatch_host::cause::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), WorkError> {
    let (request, _, work) = Work::<VerifyRequest>::receive(MAX_REQUEST)?.split();
    let limits = Limits::for_pack(request.limits.pack_bytes);
    // It writes nothing: what it may write is not there.
    let confined =
        Cage { readable: &request.readable, writable: Path::new("/nonexistent"), limits }.enforce();
    confined.map_err(|error| WorkError::Step { step: "confine itself", source: io::Error::other(error) })?;
    let verdict = judge(&request).map_err(|source| WorkError::Step { step: "verify", source })?;
    work.answer(&verdict)
}

/// Looks at every file.
///
/// # Errors
/// When a file cannot be read.
pub fn judge(request: &VerifyRequest) -> io::Result<Verdict> {
    for candidate in &request.candidates {
        let sound = match candidate {
            Candidate::Loose { path, id } => is_sound_loose(path, id, request.limits.pack_bytes),
            Candidate::Pack { pack, index } => is_sound_pack(pack, index, request.format),
        };
        if !sound? {
            eprintln!("keyhatch-verify: not what its name says: {candidate:?}");
            return Ok(Verdict::Unsound);
        }
    }
    Ok(Verdict::Sound)
}

/// Whether a loose object has the name that it shall have. It is never held whole: a large file may be one.
pub(super) fn is_sound_loose(path: &Path, id: &ObjectId, most: u64) -> io::Result<bool> {
    let mut content = ZlibDecoder::new(BufReader::new(File::open(path)?));
    let mut hasher = gix_hash::hasher(kind(id.format()));
    let mut head = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let (mut length, mut claimed) = (0u64, None);
    loop {
        let Ok(read) = content.read(&mut buffer) else { return Ok(false) };
        if read == 0 {
            break;
        }
        length += read as u64;
        if length > most.saturating_add(MAX_HEAD as u64) {
            return Ok(false);
        }
        if claimed.is_none() {
            head.extend(&buffer[..read.min(MAX_HEAD)]);
            claimed = size_in(&head);
            if claimed.is_none() && head.len() >= MAX_HEAD {
                return Ok(false);
            }
        }
        hasher.update(&buffer[..read]);
    }
    let whole = claimed.is_some_and(|(head, size)| size <= most && head as u64 + size == length);
    // What follows the compressed bytes would be nobody's: git refuses it too.
    let ended = content.into_inner().read(&mut [0])? == 0;
    // A collision that was made is no name.
    let name = hasher.try_finalize().map(|name| name.to_string());
    Ok(whole && ended && name.is_ok_and(|name| name == id.as_str()))
}

/// The length of the head of a loose object, and the size that it names; none where it is not all there, or none.
fn size_in(head: &[u8]) -> Option<(usize, u64)> {
    let end = head.iter().take(MAX_HEAD).position(|byte| *byte == 0)?;
    let (kind, size) = std::str::from_utf8(&head[..end]).ok()?.split_once(' ')?;
    let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
    let known = matches!(kind, "commit" | "tree" | "blob" | "tag");
    (known && digits).then(|| size.parse().ok().map(|size| (end + 1, size)))?
}

/// Whether every object of a pack has the name that the index gives it.
pub(super) fn is_sound_pack(pack: &Path, index: &Path, format: ObjectFormat) -> io::Result<bool> {
    let mut version = [0; 8];
    if File::open(index)?.read_exact(&mut version).is_err() || version != INDEX_V2 {
        return Ok(false);
    }
    let kind = kind(format);
    let opened = gix_pack::index::File::at(index, kind)
        .and_then(|index| gix_pack::data::File::at(pack, kind).map(|pack| (index, pack)));
    let Ok((index, pack)) = opened else { return Ok(false) };
    if index.num_objects() != pack.num_objects() || index.pack_checksum() != pack.checksum() {
        return Ok(false);
    }
    let options = integrity::Options {
        // What the objects say, git's fsck has judged; here it is whether they are what they are called.
        verify_mode: Mode::HashCrc32,
        traversal: Algorithm::DeltaTreeLookup,
        thread_limit: Some(1),
        make_pack_lookup_cache: || gix_pack::cache::Never,
    };
    let context = PackContext { data: &pack, options };
    Ok(index.verify_integrity(Some(context), &mut Discard, &AtomicBool::new(false)).is_ok())
}

const fn kind(format: ObjectFormat) -> gix_hash::Kind {
    match format {
        ObjectFormat::Sha1 => gix_hash::Kind::Sha1,
        ObjectFormat::Sha256 => gix_hash::Kind::Sha256,
    }
}

#[cfg(test)]
mod tests;
