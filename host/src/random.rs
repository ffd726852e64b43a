//! Random bytes from the kernel: for names, tokens and seeds.

/// Random bytes from the kernel.
///
/// # Panics
/// When the kernel has no randomness to give: nothing may go on without.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(read, Ok(N), "the kernel gives no random bytes");
    bytes
}
