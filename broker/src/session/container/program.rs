//! The helper's program, copied into a session's directory: each session has its own, so that none can change what
//! another one runs. It must be static: an image may have another libc, or none.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Largest program that is taken: a static helper is under 2 MiB, one with debugging information some more.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The helper cannot be put into containers.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It is not there, or too large.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no program of 64 bits.
    #[error("{path} is not a 64-bit ELF program")]
    NoProgram {
        /// Which file.
        path: PathBuf,
    },
    /// It needs a libc of the image's.
    #[error("{path} is not static: it needs a loader and a libc that an image may not have")]
    Dynamic {
        /// Which file.
        path: PathBuf,
    },
    /// The copy.
    #[error("cannot copy the helper")]
    Copy(#[source] io::Error),
}

/// Copies the helper, if it runs in any image.
pub(super) fn place(program: &Path, copy: &Path) -> Result<(), ProgramError> {
    let path = || program.to_owned();
    let mut bytes = Vec::new();
    let file = fs::File::open(program).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    file.map_err(|source| ProgramError::Unreadable { path: path(), source })?;
    match names_a_loader(&bytes) {
        Some(false) => {}
        Some(true) => return Err(ProgramError::Dynamic { path: path() }),
        None => return Err(ProgramError::NoProgram { path: path() }),
    }
    let mut options = fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o755).open(copy).and_then(|mut file| {
        file.write_all(&bytes)?;
        // Whatever the umask: any uid inside runs it.
        file.set_permissions(fs::Permissions::from_mode(0o755))
    });
    written.map_err(ProgramError::Copy)
}

/// Whether an ELF file has a segment of type PT_INTERP (elf(5)); none where it is no little-endian ELF file of 64 bits.
fn names_a_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // e_phoff, e_phentsize, e_phnum of Elf64_Ehdr.
    let start = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for number in 0..count {
        let at = start.checked_add(number.checked_mul(size)?)?;
        let kind = elf.get(at..at.checked_add(4)?)?;
        if kind == PT_INTERP.to_le_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_and_what_is_no_program_are_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (script, copy) = (temp.path().join("script"), temp.path().join("copy"));
        fs::write(&script, "#!/bin/sh\n").expect("writes");
        assert!(matches!(place(&script, &copy), Err(ProgramError::NoProgram { .. })));
        let own = std::env::current_exe().expect("a path");
        assert!(
            matches!(place(&own, &copy), Err(ProgramError::Dynamic { .. })),
            "tests are linked to a libc"
        );
        assert!(!copy.exists());
    }

    #[test]
    fn headers_that_lie_are_no_program() {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(names_a_loader(&elf), Some(false), "no segments");
        elf[56] = 1;
        elf[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(names_a_loader(&elf), None, "beyond the end");
        assert_eq!(names_a_loader(&elf[..20]), None);
    }
}
