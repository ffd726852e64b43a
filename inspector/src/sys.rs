//! The one call of libgit2's that git2 marks unsafe.

/// Points libgit2's search for configuration files of one level at nothing.
///
/// # Errors
/// What libgit2 says.
#[allow(unsafe_code)]
pub fn forget_search_path(level: git2::ConfigLevel) -> Result<(), git2::Error> {
    // JUSTIFICATION: git2 marks its global options unsafe, because of threads. SAFETY: the inspector has one thread.
    unsafe { git2::opts::set_search_path(level, "/nonexistent") }
}
