//! What is said to be on the host is on its disk: files before they have names, names before a ref says them, a ref's own
//! name before its session's report. `git` flushes files and refs (core.fsync), and leaves directories to the file system.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

/// Most flushes at once: file systems gather those that wait into one.
const AT_ONCE: usize = 8;

/// Flushes files with their sizes.
///
/// # Errors
/// When the disk did not take one of them.
pub(super) fn flush_files<'f>(files: impl Iterator<Item = &'f File>) -> io::Result<()> {
    let files: Vec<&File> = files.collect();
    let flush = |some: &[&File]| some.iter().try_for_each(|file| file.sync_all());
    if files.len() < 2 {
        return flush(&files);
    }
    let each = files.len().div_ceil(AT_ONCE);
    thread::scope(|scope| {
        let flushing: Vec<_> = files.chunks(each).map(|some| scope.spawn(move || flush(some))).collect();
        let died = |_| Err(io::ErrorKind::Other.into());
        flushing.into_iter().try_for_each(|flushing| flushing.join().unwrap_or_else(died))
    })
}

/// Flushes files, or the names in directories, by their paths. One that is not there has nothing to flush.
///
/// # Errors
/// When one cannot be opened, or the disk did not take it.
pub(super) fn flush_paths<'p>(paths: impl Iterator<Item = &'p Path>) -> io::Result<()> {
    let mut opened = Vec::new();
    for path in paths {
        match File::open(path) {
            Ok(file) => opened.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    flush_files(opened.iter())
}

/// Flushes everything that a file system has, by a directory in it.
///
/// # Errors
/// When it cannot be opened, or the disk did not take something.
pub(super) fn flush_file_system(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}
